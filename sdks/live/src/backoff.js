const FIRST_MS = 300;
const LONGEST_MS = 10_000;

/** Pauses that double, between half and one and a half times of their length. */
export class Backoff {
  #pauseMs = FIRST_MS;
  #random;

  constructor(random = Math.random) {
    this.#random = random;
  }

  reset() {
    this.#pauseMs = FIRST_MS;
  }

  next() {
    const pause = this.#pauseMs * (0.5 + this.#random());
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_MS);
    return pause;
  }
}
