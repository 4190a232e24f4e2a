import { Feed } from './feed.js';
import { Listeners, whole } from './listeners.js';
import { difference } from './result.js';

/** A query that nobody listens to is followed for so much longer: pages replace one part by another. */
const LINGER_MS = 1000;

const UNKNOWN = { isReady: false, isStale: true, error: null, position: null };

/** A query's result, which stays up to date while somebody listens. */
export class LiveQuery {
  #client;
  /** The user's session that everything here belongs to. */
  #session;
  #feed;
  #compare;
  #listeners = new Listeners(() => this.#snapshot, whole);
  #changeListeners = new Listeners(() => this.#shown, (told, shown) => difference(told, shown) ?? undefined);
  /** The records of the snapshot, by id. It is replaced, never changed. */
  #shown = new Map();
  #snapshot = Object.freeze({ records: Object.freeze([]), ...UNKNOWN });
  #isFollowed = false;
  #lingering;
  /** What the client does with all queries that have changed, one step after the other. */
  #publishing = { update: () => this.#update(), tell: () => this.#tell() };

  /**
   * Called by `LiveClient.query`. `client` has `session()`, `follow(feed, query)`, `unfollow(feed)`,
   * `retry(feed)` and `publish(publishing)`.
   */
  constructor(client, parameters, { compare } = {}) {
    this.#client = client;
    this.#session = client.session();
    this.#feed = new Feed(parameters, () => this.#changed());
    this.#compare = compare;
  }

  // Functions of their own, so that they can be passed on: `useSyncExternalStore(query.subscribe, …)`.

  subscribe = (listener) => this.#join(this.#listeners, listener, undefined);

  snapshot = () => {
    this.#belong();
    return this.#snapshot;
  };

  onChange = (listener) => this.#join(this.#changeListeners, listener, new Map());

  retry = () => {
    if (this.#isFollowed) this.#client.retry(this.#feed);
  };

  close() {
    this.#listeners.clear();
    this.#changeListeners.clear();
    this.#stop();
  }

  /** Adds a listener that was told so much, and tells it what there is. */
  #join(listeners, listener, told) {
    this.#belong();
    const entry = listeners.add(listener, told);
    clearTimeout(this.#lingering);
    if (!this.#isFollowed) {
      this.#isFollowed = true;
      this.#client.follow(this.#feed, this);
    }
    listeners.tell(entry);
    return () => {
      if (!listeners.delete(entry) || this.#listeners.size || this.#changeListeners.size) return;
      this.#lingering = setTimeout(() => this.#stop(), LINGER_MS);
    };
  }

  #stop() {
    clearTimeout(this.#lingering);
    if (!this.#isFollowed) return;
    this.#isFollowed = false;
    this.#client.unfollow(this.#feed);
  }

  /** Forgets everything if the client shows another user's session by now. */
  #belong() {
    const session = this.#client.session();
    if (this.#session === session) return;
    this.#session = session;
    this.#feed.forget();
    this.#show(new Map(), UNKNOWN);
    this.#tell();
  }

  #changed() {
    this.#belong();
    this.#client.publish(this.#publishing);
  }

  #update() {
    const { result, error } = this.#feed;
    const isStale = !result.isCurrent;
    if (result.isComplete) {
      const { records, position } = result;
      this.#show(records, { isReady: true, isStale, error, position });
    } else {
      const { isReady, position } = this.#snapshot;
      this.#show(this.#shown, { isReady, isStale, error, position });
    }
  }

  #show(records, state) {
    const changes = difference(this.#shown, records);
    const before = this.#snapshot;
    if (!changes && Object.keys(state).every((name) => state[name] === before[name])) return;
    if (changes) this.#shown = new Map(records);
    this.#snapshot = Object.freeze({ records: changes ? this.#list() : before.records, ...state });
  }

  #tell() {
    this.#changeListeners.tellAll();
    this.#listeners.tellAll();
  }

  #list() {
    const records = [...this.#shown.values()];
    try {
      if (this.#compare) records.sort(this.#compare);
    } catch (error) {
      // Somebody may have saved a record that it does not expect. The others are shown all the same.
      console.error(error);
    }
    return Object.freeze(records);
  }
}
