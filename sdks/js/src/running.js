/** What a running function can know about the request that it answers. */

import { AsyncLocalStorage } from 'node:async_hooks';
import { setMaxListeners } from 'node:events';

import { Cancelled } from './errors.js';

/**
 * The server enforces the limit and sends a cancel. The worker's own limit is for when the server is
 * away. It fires later, so that the two do not race for what the client is told.
 */
const GRACE_MS = 500;

const storage = new AsyncLocalStorage();

/** Returns the request that the running function answers, or null. */
export const currentRequest = () => storage.getStore() ?? null;

/** A request that is being answered. */
export class Running {
  #abort = new AbortController();
  #timer = null;
  #sendProgress;
  #until = Infinity;
  #isAlone;

  /** With `isAlone` no server keeps the limit: it counts at once, and keeps the process until then. */
  constructor(request, sendProgress = () => {}, { isAlone = false, level = 0 } = {}) {
    this.request = request;
    this.isFinished = false;
    /** The level of its calls: one deeper than the call that caused it, and 1 if none is known. */
    this.level = level;
    this.#sendProgress = sendProgress;
    this.#isAlone = isAlone;
    // Every call of the request listens to it.
    setMaxListeners(0, this.signal);
    this.#renew();
  }

  /** Aborted when nobody waits any more, with a `Cancelled` as the reason. */
  get signal() {
    return this.#abort.signal;
  }

  /** How many milliseconds remain for the answer. */
  get msLeft() {
    return Math.max(0, this.#until - performance.now());
  }

  /** Runs a function for this request: `currentRequest` returns it there and in what it awaits. */
  run(fn) {
    return storage.run(this, fn);
  }

  /** Reports that a delivery is still being worked on; its limit starts anew. */
  progress() {
    if (this.request.delivery === null || this.isFinished) return;
    this.#sendProgress();
    this.#renew();
  }

  cancel(reason) {
    if (!this.isFinished && !this.signal.aborted) this.#abort.abort(new Cancelled(reason));
  }

  finish() {
    this.isFinished = true;
    clearTimeout(this.#timer);
  }

  #renew() {
    const { timeoutMs } = this.request;
    if (timeoutMs === null) return;
    clearTimeout(this.#timer);
    this.#until = performance.now() + timeoutMs;
    const graceMs = this.#isAlone ? 0 : GRACE_MS;
    this.#timer = setTimeout(() => this.cancel('deadline'), timeoutMs + graceMs);
    if (!this.#isAlone) this.#timer.unref();
  }
}
