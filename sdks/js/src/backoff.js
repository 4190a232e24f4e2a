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
const RESTART_SPREAD_MS = 5000;

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

  constructor(random = Math.random) {
    this.#random = random;
  }

  reset() {
    this.#limit = FIRST_MS;
  }

  /**
   * Returns how many milliseconds to wait before the next attempt. An ending has a `closeCode`, the
   * HTTP `status` of a rejection with its `retryAfterMs`, or nothing.
   */
  pauseMs(ending) {
    if (ending.closeCode === RESTART) return this.#random() * RESTART_SPREAD_MS;
    if (ending.closeCode === PROTOCOL_ERROR || REFUSED_SLOWLY.has(ending.status)) {
      return LONGEST_MS * (1 + this.#random() / 2);
    }
    const pause = this.#random() * this.#limit;
    this.#limit = Math.min(2 * this.#limit, LONGEST_MS);
    return pause + Math.min(ending.retryAfterMs ?? 0, LONGEST_MS);
  }
}
