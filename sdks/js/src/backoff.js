/** Decides whether to reconnect, and when. Pure, apart from the random numbers. */

/** Unknown plugin, registration rejected, older generation, taken over by a newer socket. */
const FINAL = new Set([4003, 4004, 4005, 4007]);
/** After these codes the server no longer has the session. */
const FORGOTTEN = new Set([1000, 1009, 1012, 1013, 4002, 4008]);
/** A wrong key and the like do not go away quickly. */
const REFUSED_SLOWLY = new Set([401, 403, 426]);

const RESTART = 1012;
const PROTOCOL_ERROR = 4002;
const FIRST_MS = 1000;
const LONGEST_MS = 30_000;
/**
 * The server keeps a lost session for some seconds only, and clients wait for a plugin that is away:
 * in the first minute pauses are no longer than this.
 */
const LONGEST_AT_FIRST_MS = 2000;
const AT_FIRST_MS = 60_000;
/** After a restart the workers spread, so that they do not all come at once. */
const SPREAD_PER_WORKER_MS = 20;
const LONGEST_SPREAD_MS = 5000;
/** For so long a server that restarts is tried again and again, at most this often. */
const RESTART_MS = 15_000;
const RETRY_MS = 200;

/** Returns the time of a `Retry-After` header; 0 for a date, which proxies can send. */
export const retryAfterMs = (header) => (/^\d+$/.test(header) ? 1000 * Number(header) : 0);

/** Whether the server would give the same answer again. */
export const isFinal = (ending) => FINAL.has(ending.closeCode);

/** Whether the server rejects the key. */
export const isKeyRefused = (ending) => ending.status === 401 || ending.status === 403;

/** Whether there is nothing to resume. */
export const isSessionLost = (ending) => FORGOTTEN.has(ending.closeCode);

/** Pauses between 0 and a limit that doubles; call `reset` after a connection that worked. */
export class Backoff {
  #random;
  #limit = FIRST_MS;
  /** How much longer the server is taken to be restarting. */
  #restartMs = 0;
  /** How long the server has been away. */
  #waitedMs = 0;
  /** How many workers reconnect after the server has restarted, if it has said so. */
  numWorkers;

  constructor(random = Math.random) {
    this.#random = random;
  }

  reset() {
    this.#limit = FIRST_MS;
    this.#restartMs = 0;
    this.#waitedMs = 0;
    this.numWorkers = undefined;
  }

  /**
   * Returns how many milliseconds to wait before the next attempt. An ending has a `closeCode`, the
   * HTTP `status` of a rejection with its `retryAfterMs`, or nothing.
   */
  pauseMs(ending) {
    if (ending.closeCode === RESTART) {
      if (this.numWorkers !== undefined) this.#restartMs = RESTART_MS;
      return this.#random() * this.#spreadMs;
    }
    if (ending.closeCode === PROTOCOL_ERROR || REFUSED_SLOWLY.has(ending.status)) {
      return LONGEST_MS * (1 + this.#random() / 2);
    }
    const asked = Math.min(ending.retryAfterMs ?? 0, LONGEST_MS);
    if (this.#restartMs > 0) {
      const longest = Math.max(RETRY_MS, this.#spreadMs);
      // At least half of it, or a pause of no length would be tried over and over.
      const pause = (longest * (1 + this.#random())) / 2 + asked;
      this.#restartMs -= pause;
      return pause;
    }
    const pause = this.#random() * this.#limit;
    this.#waitedMs += pause + asked;
    const longest = this.#waitedMs < AT_FIRST_MS ? LONGEST_AT_FIRST_MS : LONGEST_MS;
    this.#limit = Math.min(2 * this.#limit, longest);
    return pause + asked;
  }

  /** How far the workers spread after a restart. A single one need not wait for others. */
  get #spreadMs() {
    if (this.numWorkers === undefined) return LONGEST_SPREAD_MS;
    return Math.min(Math.max(this.numWorkers - 1, 0) * SPREAD_PER_WORKER_MS, LONGEST_SPREAD_MS);
  }
}
