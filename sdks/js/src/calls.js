/** Calls to the server that wait for their replies. */

import { CallTimeout, ConnectionLost } from './errors.js';

/** A reply may be on its way when a call's time is over: the server enforces the limit, too. */
const REPLY_GRACE_MS = 5000;

/** The calls that wait for a reply. */
export class Calls {
  #waiting = new Map();

  /**
   * Waits for the reply to a call, for at most `ms`, or until one of the signals aborts. Calls
   * `onGiveUp` when the reply has not arrived and nobody wants it any more.
   */
  wait(id, ms, signals, onGiveUp) {
    return new Promise((resolve, reject) => {
      const onAbort = ({ target }) => giveUp(target.reason);
      const end = () => {
        clearTimeout(timer);
        for (const signal of signals) signal.removeEventListener('abort', onAbort);
        this.#waiting.delete(id);
      };
      const giveUp = (reason) => {
        end();
        onGiveUp(id);
        reject(reason);
      };
      const timer = setTimeout(() => giveUp(new CallTimeout()), ms + REPLY_GRACE_MS);
      for (const signal of signals) signal.addEventListener('abort', onAbort);
      this.#waiting.set(id, {
        resolve: (reply) => (end(), resolve(reply)),
        reject: (error) => (end(), reject(error))
      });
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
 * Lets as many calls be under way as the server allows; the others wait, in order.
 *
 * A call can wait for a hook of this plugin, whose own calls are one level deeper. If the outer ones
 * took every place, all would wait for ever: each level leaves half of what remains to the deeper
 * ones. Calls outside of requests are level 0, and alone there: the server does not say which requests
 * they cause.
 */
export class Turns {
  #max;
  #numTaken = 0;
  #waiting = new Set();

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
    const isFree = this.#numTaken < this.#max - (this.#max >> (level + 1));
    if (isFree) this.#numTaken += 1;
    return isFree;
  }

  /** Waits for a place; false when none came in time. */
  wait(level, ms, signals) {
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(timer);
        this.#waiting.delete(turn);
        for (const signal of signals) signal.removeEventListener('abort', onAbort);
      };
      const turn = { level, pass: () => (end(), resolve(true)) };
      const onAbort = ({ target }) => (end(), reject(target.reason));
      const timer = setTimeout(() => (end(), resolve(false)), ms);
      this.#waiting.add(turn);
      for (const signal of signals) signal.addEventListener('abort', onAbort);
    });
  }

  /** Gives a place back. */
  end() {
    this.#numTaken -= 1;
    this.#admit();
  }

  #admit() {
    for (const { level, pass } of [...this.#waiting]) if (this.tryTake(level)) pass();
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
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(timer);
        this.#waiting.delete(pass);
        for (const signal of signals) signal.removeEventListener('abort', onAbort);
      };
      const pass = () => (end(), resolve(true));
      const onAbort = ({ target }) => (end(), reject(target.reason));
      const timer = setTimeout(() => (end(), resolve(false)), ms);
      this.#waiting.add(pass);
      for (const signal of signals) signal.addEventListener('abort', onAbort);
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
