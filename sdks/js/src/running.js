/** What a running function may know of the request that it answers. */

import { AsyncLocalStorage } from 'node:async_hooks';

import { Cancelled } from './errors.js';

/**
 * The server keeps the limit, and says so when it is over. This is for when it is away; it comes
 * later, so that the two do not race for what the client is told.
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

  constructor(request, sendProgress = () => {}) {
    this.request = request;
    this.isFinished = false;
    this.#sendProgress = sendProgress;
    this.#renew();
  }

  /** Aborted when nobody waits any more, with a `Cancelled` as the reason. */
  get signal() {
    return this.#abort.signal;
  }

  /** How long the answer counts, in milliseconds. */
  get msLeft() {
    return Math.max(0, this.#until - performance.now());
  }

  /** Runs a function as this request's: `currentRequest` is this one in it and in what it awaits. */
  run(fn) {
    return storage.run(this, fn);
  }

  /** Says that a delivery is still worked on; its limit starts anew. */
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
    this.#timer = setTimeout(() => this.cancel('deadline'), timeoutMs + GRACE_MS);
    this.#timer.unref();
  }
}
