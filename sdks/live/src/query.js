import { Known } from './known.js';

const NOTHING = Object.freeze([]);

/**
 * The result of a query, kept up to date. `subscribe` and `snapshot` are what frameworks take as an
 * external store: React's `useSyncExternalStore(query.subscribe, query.snapshot)`.
 */
export class LiveQuery {
  #followed;

  constructor(followed) {
    this.#followed = followed;
  }

  /** Calls `listener` after each change of the snapshot; returns a function that ends this. */
  subscribe = (listener) => this.#followed.subscribe(listener);

  /** Returns what is known; the same object until it changes. */
  snapshot = () => this.#followed.snapshot();

  /** Resolves with the first result, or rejects with the error that ends the query before. */
  first = () => this.#followed.first();

  /** Ends it. The last snapshot stays. */
  close = () => this.#followed.close();
}

/** A query as its client sees it. */
export class Followed {
  known = new Known();
  /** The id of the present subscription; each is used once, since frames can arrive late. */
  id;

  #options;
  #close;
  #listeners = new Set();
  /** Those who wait for the first result. */
  #waiting = [];
  #shown = new Map();
  #snapshot = Object.freeze({ records: NOTHING, isReady: false, isStale: true });
  #isStale = true;
  #error;
  #timer;

  constructor(parameters, options, close) {
    this.parameters = parameters;
    this.#options = options;
    this.#close = close;
  }

  subscribe(listener) {
    // The same function may subscribe more than once.
    const entry = { listener };
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  }

  snapshot() {
    return this.#snapshot;
  }

  first() {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#answer();
    });
  }

  close() {
    this.#close(this);
    clearTimeout(this.#timer);
    this.#listeners.clear();
    for (const { reject } of this.#waiting.splice(0)) reject(new Error('the query was closed'));
  }

  /** It is about to be asked, as `id`. */
  begin(id) {
    this.id = id;
    this.known.begin();
  }

  /** Applies a frame. What arrives together is shown together. */
  take(frame) {
    this.known.take(frame);
    if (!this.known.isWhole) return;
    this.#isStale = false;
    this.#showSoon();
  }

  /** The connection is lost. */
  lost() {
    this.id = undefined;
    if (this.#isStale || this.#error) return;
    this.#isStale = true;
    this.#showSoon();
  }

  /** The server has ended it. */
  fail(error) {
    this.#error = error;
    this.#isStale = true;
    this.#show();
    this.#options.onError?.(error);
  }

  /** Somebody else is to see nothing of it. */
  forget() {
    this.known.clear();
    this.#isStale = true;
    this.#error = undefined;
    this.#show();
  }

  #showSoon() {
    this.#timer ??= setTimeout(() => this.#show(), 0);
  }

  #show() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const { known } = this;
    // While a difference or a new result arrives, the last one stays.
    const changes = known.isWhole || !known.isReady ? this.#changes() : undefined;
    const snapshot = {
      records: changes ? this.#sorted() : this.#snapshot.records,
      isReady: known.isReady,
      isStale: this.#isStale,
    };
    if (known.place.from !== undefined) snapshot.position = known.place.from;
    if (this.#error) snapshot.error = this.#error;
    this.#snapshot = Object.freeze(snapshot);
    this.#answer();
    if (changes && Object.values(changes).some(({ length }) => length > 0)) {
      this.#options.onChanges?.(changes);
    }
    for (const { listener } of [...this.#listeners]) listener();
  }

  #answer() {
    const { isReady, records, error } = this.#snapshot;
    if (!isReady && !error) return;
    for (const { resolve, reject } of this.#waiting.splice(0)) {
      if (isReady) resolve(records);
      else reject(Object.assign(new Error(error.message), { error }));
    }
  }

  #sorted() {
    const records = [...this.known.records.values()];
    const { compare } = this.#options;
    return Object.freeze(compare ? records.sort(compare) : records);
  }

  /** Returns what has changed since the last snapshot. */
  #changes() {
    const now = this.known.records;
    const touched = this.known.settle();
    const ids = touched ?? new Set([...this.#shown.keys(), ...now.keys()]);
    const changes = { entered: [], changed: [], left: [] };
    for (const id of ids) {
      const [before, after] = [this.#shown.get(id), now.get(id)];
      if (!before && after) changes.entered.push(after);
      else if (before && !after) changes.left.push(before);
      else if (before && !isSame(before, after)) changes.changed.push(after);
    }
    for (const id of ids) {
      if (now.has(id)) this.#shown.set(id, now.get(id));
      else this.#shown.delete(id);
    }
    return changes;
  }
}

/** Whether a record that was sent anew says the same. */
const isSame = (one, other) => one === other || JSON.stringify(one) === JSON.stringify(other);
