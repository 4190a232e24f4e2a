/**
 * The result of a query, made from the events of one subscription after the other. Pure.
 *
 * Only an event with a position completes a state. What arrives without one is kept back until such
 * an event follows, and is dropped if the connection is lost before that. So the records are always
 * what they should be at `position`, and the next subscription can continue from there.
 */
export class Result {
  /** The records by id. */
  records = new Map();
  /** Everything up to here was received; null if there is nothing to continue from. */
  position = null;
  /** Whether everything that has happened was received, as far as is known. */
  isCurrent = false;
  /**
   * Whether the records are a state that once was the result. While the client catches up they need
   * not be: what has left by the end is gone from the beginning.
   */
  isComplete = false;
  #timeline = null;
  /** The whole result, while it arrives. */
  #arriving = null;
  /** Changes without a position. */
  #difference = [];

  /** Returns what a subscription needs to continue, and prepares for its events. */
  resume() {
    this.interrupt();
    if (this.position !== null) return { from: this.position, timeline: this.#timeline };
    this.#arriving = new Map();
    return {};
  }

  /** Handles that the subscription has ended. */
  interrupt() {
    this.isCurrent = false;
    this.#arriving = null;
    this.#difference = [];
  }

  /** Handles an event. */
  take({ event, position, timeline, record, records }) {
    switch (event) {
      case 'reset':
        this.interrupt();
        this.isComplete = false;
        this.position = this.#timeline = null;
        this.#arriving = new Map();
        break;
      case 'result':
        this.#arriving ??= new Map();
        for (const it of records) this.#arriving.set(it._id, it);
        break;
      case 'enter':
      case 'change':
      case 'leave':
        this.#difference.push({ event, record });
        if (position !== undefined) this.#complete(position, false);
        break;
      case 'ready':
        if (this.#arriving) this.#replace(this.#arriving);
        this.#timeline = timeline;
        this.#complete(position, true);
        break;
    }
  }

  #complete(position, isReady) {
    for (const { event, record } of this.#difference) {
      // A change of an unknown record and the leaving of one are legal after a break.
      if (event === 'leave') this.records.delete(record._id);
      else this.records.set(record._id, record);
    }
    this.#difference = [];
    this.position = position;
    this.isCurrent ||= isReady;
    this.isComplete = this.isCurrent;
  }

  /** Takes a new result. Records that are in both keep their place, and if they are equal, the object. */
  #replace(arrived) {
    const before = this.records;
    this.records = new Map();
    for (const [id, record] of before) {
      if (!arrived.has(id)) continue;
      this.records.set(id, isEqual(record, arrived.get(id)) ? record : arrived.get(id));
    }
    for (const [id, record] of arrived) if (!before.has(id)) this.records.set(id, record);
    this.#arriving = null;
  }
}

/** Compares two JSON values. */
function isEqual(a, b) {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  if (names.length !== Object.keys(b).length) return false;
  return names.every((name) => Object.hasOwn(b, name) && isEqual(a[name], b[name]));
}

/** Returns which records differ between two maps by id; null if none do. */
export function difference(before, after) {
  const entered = [];
  const changed = [];
  for (const [id, record] of after) {
    if (!before.has(id)) entered.push(record);
    else if (before.get(id) !== record) changed.push(record);
  }
  const left = [...before].filter(([id]) => !after.has(id)).map(([, record]) => record);
  return entered.length + changed.length + left.length ? { entered, changed, left } : null;
}
