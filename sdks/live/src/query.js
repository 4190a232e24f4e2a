import { Feed } from './feed.js';
import { tell } from './listeners.js';
import { difference } from './result.js';

/** A query that nobody listens to is followed for so much longer: pages replace one part by another. */
const LINGER_MS = 1000;

/** What arrives within a frame of the screen is shown together. A snapshot of a long result takes some milliseconds. */
const FRAME_MS = 16;

const UNKNOWN = { isReady: false, isStale: true, error: null, position: null };

/** A query's result, which stays up to date while somebody listens. */
export class LiveQuery {
  #client;
  /** The user's session that everything here belongs to. */
  #session;
  #feed;
  #compare;
  #listeners = new Set();
  #changeListeners = new Set();
  /** The records of the snapshot, by id. */
  #shown = new Map();
  #snapshot = Object.freeze({ records: Object.freeze([]), ...UNKNOWN });
  #isFollowed = false;
  #lingering;
  #publishing;

  /** Called by `LiveClient.query`. `client` has `session()`, `follow(feed, query)`, `unfollow(feed)`. */
  constructor(client, parameters, { compare } = {}) {
    this.#client = client;
    this.#session = client.session();
    this.#feed = new Feed(parameters, () => this.#changed());
    this.#compare = compare;
  }

  // Functions of their own, so that they can be passed on: `useSyncExternalStore(query.subscribe, …)`.

  subscribe = (listener) => {
    const leave = this.#join(this.#listeners, listener);
    tell([[listener]], this.snapshot());
    return leave;
  };

  snapshot = () => {
    this.#belong();
    return this.#snapshot;
  };

  onChange = (listener) => {
    const leave = this.#join(this.#changeListeners, listener);
    const entered = [...this.snapshot().records];
    if (entered.length) tell([[listener]], { entered, changed: [], left: [] });
    return leave;
  };

  close() {
    this.#listeners.clear();
    this.#changeListeners.clear();
    this.#stop();
  }

  #join(listeners, listener) {
    // The same function can listen twice.
    const entry = [listener];
    listeners.add(entry);
    clearTimeout(this.#lingering);
    this.#belong();
    if (!this.#isFollowed) {
      this.#isFollowed = true;
      this.#client.follow(this.#feed, this);
    }
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
  }

  #changed() {
    this.#belong();
    this.#publishing ??= setTimeout(() => this.#publish(), FRAME_MS);
  }

  #publish() {
    this.#publishing = undefined;
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
    if (changes) tell(this.#changeListeners, changes);
    tell(this.#listeners, this.#snapshot);
  }

  #list() {
    const records = [...this.#shown.values()];
    if (this.#compare) records.sort(this.#compare);
    return Object.freeze(records);
  }
}
