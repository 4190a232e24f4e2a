// A network that is slow is not one that is gone: the result arrives, whatever the pings do meanwhile.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { listen, note, start } from './stub.js';

/**
 * A link that carries one frame after the other. Each part of a result takes `ms`. A pong takes no time,
 * but waits for the frame that is on its way, or if `isLast`, for all that were sent before it.
 */
class Link {
  #frames = [];

  constructor(socket, numParts, ms, isLast) {
    this.socket = socket;
    socket.took = ({ action, id }) => {
      if (action === 'live:ping') {
        const pong = { ms: 0, frame: { event: 'pong' } };
        this.#frames.splice(isLast ? this.#frames.length : 1, 0, pong);
        return;
      }
      for (let n = 0; n < numParts; n += 1) {
        this.#frames.push({ ms, frame: { id, event: 'result', records: [note(n)] } });
      }
      this.#frames.push({ ms: 0, frame: { id, event: 'ready', position: 7, timeline: 't' } });
    };
    socket.open();
  }

  carry(ms) {
    let left = ms;
    while (this.#frames.length && this.#frames[0].ms <= left) {
      const { ms: took, frame } = this.#frames.shift();
      left -= took;
      this.socket.say(frame);
    }
    if (this.#frames.length) this.#frames[0].ms -= left;
  }
}

/** Returns how many seconds pass before the result is there. */
function load(t, numParts, seconds, isLast) {
  const server = start(t);
  const query = server.client.query({ record_type: 'note' });
  listen(query);
  let link = null;
  for (let passed = 0; passed < 7200; passed += 1) {
    if (query.snapshot().isReady) return passed;
    if (!server.socket.isOpen && !server.socket.isClosed) link = new Link(server.socket, numParts, 1000 * seconds, isLast);
    if (!server.socket.isClosed) link.carry(1000);
    server.pass(1000);
  }
  return Infinity;
}

for (const [numParts, seconds] of [[1, 50], [1, 100], [3, 50], [3, 100], [12, 10], [60, 10]]) {
  for (const isLast of [false, true]) {
    test(`a result in ${numParts} parts of ${seconds} s arrives; pongs wait for ${isLast ? 'all' : 'one'}`, (t) => {
      const needed = numParts * seconds;
      const took = load(t, numParts, seconds, isLast);
      // If a part takes less than the shortest patience, nothing is lost.
      const longest = seconds < 15 ? needed + 2 : needed + 200;
      assert(took <= longest, `${took} s instead of ${needed} s`);
    });
  }
}
