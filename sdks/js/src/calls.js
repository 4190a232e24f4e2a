/** Calls to the server that wait for their replies. */

import { CallTimeout, ConnectionLost } from './errors.js';

/** A reply may be on its way when a call's time is over: the server enforces the limit, too. */
const REPLY_GRACE_MS = 5000;

/**
 * Waits until `start` resolves or rejects, for at most `ms`, or until one of the signals aborts.
 * `start` returns what to do when the waiting ends. `onTimeout` settles the promise; `onAbort` is
 * called after it was rejected.
 */
function waitWithin(ms, signals, { start, onTimeout, onAbort }) {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener('abort', abort);
      stop();
    };
    const succeed = (value) => (end(), resolve(value));
    const fail = (error) => (end(), reject(error));
    const abort = ({ target }) => (fail(target.reason), onAbort?.());
    const timer = setTimeout(() => onTimeout(succeed, fail), ms);
    for (const signal of signals) signal.addEventListener('abort', abort);
    const stop = start(succeed, fail);
  });
}

/** The calls that wait for a reply. */
export class Calls {
  #waiting = new Map();

  /**
   * Waits for the reply to a call, for at most `ms`, or until one of the signals aborts. Calls
   * `onGiveUp` when the reply has not arrived and nobody wants it any more.
   */
  wait(id, ms, signals, onGiveUp) {
    return waitWithin(ms + REPLY_GRACE_MS, signals, {
      start: (resolve, reject) => {
        this.#waiting.set(id, { resolve, reject });
        return () => this.#waiting.delete(id);
      },
      onTimeout: (_, reject) => (reject(new CallTimeout()), onGiveUp(id)),
      onAbort: () => onGiveUp(id)
    });
  }

  /** Passes on a reply, if anybody still waits for it. */
  take(id, reply) {
    this.#waiting.get(id)?.resolve(reply);
  }

  /** Ends the waiting for replies that will not arrive. */
  fail() {
    for (const { reject } of [...this.#waiting.values()]) reject(new ConnectionLost());
  }
}

/**
 * Lets as many calls be under way as the server allows; the others of a level wait in order.
 *
 * A call can wait for a hook of this plugin, whose own calls are one level deeper. If the outer ones
 * took every place, all would wait for ever: each level leaves half of what remains to the deeper
 * ones. Calls outside of requests are level 0, and alone there: the server does not say which requests
 * they cause.
 */
export class Turns {
  #max;
  #numTaken = 0;
  /** A queue for each level. */
  #waiting = [];

  constructor(max) {
    this.#max = max;
  }

  get max() {
    return this.#max;
  }

  set max(max) {
    this.#max = max;
    this.#admit();
  }

  /** Takes a place, if there is one. */
  tryTake(level) {
    const numLeft = Math.floor(this.#max / 2 ** (level + 1));
    const isFree = this.#numTaken < this.#max - numLeft;
    if (isFree) this.#numTaken += 1;
    return isFree;
  }

  /** Waits for a place; false when none came in time. */
  wait(level, ms, signals) {
    this.#waiting[level] ??= new Queue();
    return waitWithin(ms, signals, {
      start: (resolve) => this.#waiting[level].add(() => resolve(true)).leave,
      onTimeout: (resolve) => resolve(false)
    });
  }

  /** Gives a place back. */
  end() {
    this.#numTaken -= 1;
    this.#admit();
  }

  #admit() {
    // The deepest first: where it finds no place, those above find none either.
    for (let level = this.#waiting.length - 1; level >= 0; level -= 1) {
      const queue = this.#waiting[level];
      while (queue?.first !== undefined) {
        if (!this.tryTake(level)) return;
        queue.first();
      }
    }
  }
}

/**
 * Functions in order, linked as a ring. Taking the first of a `Set` passes over all that were removed
 * before it.
 */
class Queue {
  #ends = {};

  constructor() {
    this.#ends.before = this.#ends.after = this.#ends;
  }

  /** The first function, if there is one. */
  get first() {
    return this.#ends.after.fn;
  }

  /** Adds a function; returns what it leaves the queue with. */
  add(fn) {
    const after = this.#ends;
    const { before } = after;
    const leave = () => {
      item.before.after = item.after;
      item.after.before = item.before;
    };
    const item = { fn, before, after, leave };
    return (before.after = after.before = item);
  }
}

/** A condition that can be waited for, with a limit. */
export class Gate {
  #waiting = new Set();

  open() {
    for (const pass of [...this.#waiting]) pass();
  }

  /** Waits until the next `open`; returns false when it did not happen in time. */
  wait(ms, signals) {
    return waitWithin(ms, signals, {
      start: (resolve) => {
        const pass = () => resolve(true);
        this.#waiting.add(pass);
        return () => this.#waiting.delete(pass);
      },
      onTimeout: (resolve) => resolve(false)
    });
  }
}

/**
 * A promise whose rejection does not end the process when nothing awaits it. Calls `onUnheard` with
 * a rejection that happened before anything awaited the promise.
 */
export class Answer extends Promise {
  #isAwaited = false;

  /** Makes `then` return a plain promise. */
  static get [Symbol.species]() {
    return Promise;
  }

  static of(promise, onUnheard) {
    const answer = new Answer((resolve) => resolve(promise));
    const onRejected = (error) => {
      // The caller may still await the promise in the turn in which it received it.
      setImmediate(() => answer.#isAwaited || onUnheard(error));
    };
    Promise.prototype.then.call(answer, undefined, onRejected);
    return answer;
  }

  then(...handlers) {
    this.#isAwaited = true;
    return super.then(...handlers);
  }
}
