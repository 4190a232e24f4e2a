/** Decides how long a server may take to answer. Pure. */

const USUAL_MS = 15_000;
const LONGEST_MS = 120_000;
/** A network that is not slow brings an answer within this time. */
const QUICK_MS = 5000;
/** So many in a row: on a slow network, one can happen to come between two long messages. */
const NUM_QUICK = 3;

export class Patience {
  ms = USUAL_MS;
  #numQuick = 0;

  /** Handles that what was asked for has not come: a long message over a slow network looks like silence. */
  lose() {
    this.ms = Math.min(2 * this.ms, LONGEST_MS);
    this.#numQuick = 0;
  }

  /** Handles an answer to a ping. */
  answered(tookMs) {
    this.#numQuick = tookMs < QUICK_MS ? this.#numQuick + 1 : 0;
    if (this.#numQuick >= NUM_QUICK) this.ms = USUAL_MS;
  }
}
