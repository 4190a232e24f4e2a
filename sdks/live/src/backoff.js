/** Decides how long to wait before the next attempt to connect. Pure, apart from the random numbers. */

const FIRST_MS = 500;
const LONGEST_MS = 10_000;

/** Pauses that double. Each is between half of and one and a half times its length, at random. */
export class Backoff {
  #random;
  #pause = FIRST_MS;

  constructor(random = Math.random) {
    this.#random = random;
  }

  /** Begins anew, because there is a reason to expect that the next attempt succeeds. */
  reset() {
    this.#pause = FIRST_MS;
  }

  /**
   * Returns the next pause after a connection that was open for so long. Only one that has lasted
   * longer than the pause counts as a success: a server can accept connections and end them at once.
   */
  pauseMs(openMs) {
    if (openMs > this.#pause) this.reset();
    const pause = this.#pause * (0.5 + this.#random());
    this.#pause = Math.min(2 * this.#pause, LONGEST_MS);
    return pause;
  }
}
