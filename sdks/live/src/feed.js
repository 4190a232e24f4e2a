/** What is asked of the server for one query, and what it has answered. */

import { Result } from './result.js';

export class Feed {
  /** The subscription's id. There is a new one for each, because frames of the last one can still arrive. */
  id;
  /** The length of the text that asks for it. */
  length = 0;
  /** Why the query is not followed. While it is asked again, that may still be so. */
  error = null;
  /** Whether the server has refused the query, and may have another answer by now. */
  isRefused = false;
  result = new Result();
  /** Runs out when it is to be asked again. */
  timer;
  #parameters;
  #changed;

  /** `changed` is called after the result or the error has changed. */
  constructor(parameters, changed) {
    // A copy: what the caller changes later is not part of the query.
    this.#parameters = JSON.parse(JSON.stringify(parameters));
    this.#changed = changed;
  }

  /** Begins a subscription; returns the text that asks for it. */
  ask(id) {
    clearTimeout(this.timer);
    this.id = id;
    this.isRefused = false;
    const place = this.result.resume();
    const text = JSON.stringify({ ...this.#parameters, ...place, action: 'live:subscribe', id });
    this.length = text.length;
    this.#changed();
    return text;
  }

  take(event) {
    this.error = null;
    this.result.take(event);
    this.#changed();
  }

  /** Handles that the subscription is over, with the error if there was one that does not pass. */
  interrupt(error = this.error) {
    clearTimeout(this.timer);
    this.id = undefined;
    this.error = error;
    this.result.interrupt();
    this.#changed();
  }

  /** Forgets everything, which belongs to another user. */
  forget() {
    this.interrupt(null);
    this.isRefused = false;
    this.result = new Result();
  }
}
