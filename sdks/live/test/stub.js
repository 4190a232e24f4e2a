// A server that does what a test tells it to do. It is in the same process, so that nothing waits.

import assert from 'node:assert/strict';

import { LiveClient } from '../src/index.js';

class Socket {
  /** What the client has sent, except for pings. */
  sent = [];
  numPings = 0;
  isOpen = false;
  isClosed = false;

  constructor(url) {
    this.url = url;
  }

  // -- what the client does ------------------------------------------------------

  send(text) {
    assert(this.isOpen, 'sent before it is open');
    const frame = JSON.parse(text);
    if (frame.action === 'live:ping') this.numPings += 1;
    else this.sent.push(frame);
    this.took?.(frame);
  }

  close() {
    this.isClosed = true;
  }

  // -- what the server does ------------------------------------------------------

  open() {
    this.isOpen = true;
    this.onopen({});
    return this;
  }

  say(...frames) {
    for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) });
  }

  /** Ends it; 1006 stands for a lost connection. */
  end(code = 1006) {
    this.isClosed = true;
    this.onerror({});
    this.onclose({ code });
  }

  /** Returns the subscriptions that were asked for, latest last. */
  get asked() {
    return this.sent.filter(({ action }) => action === 'live:subscribe');
  }

  get last() {
    return this.asked.at(-1);
  }
}

/** Sets the clock, and what is random, for a test. Returns a stub server. */
export function start(t, options = {}) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  t.mock.method(Math, 'random', () => 0.5);
  let now = 0;
  t.mock.method(performance, 'now', () => now);
  const sockets = [];
  const WebSocket = class extends Socket {
    constructor(url) {
      super(url);
      sockets.push(this);
    }
  };
  const client = new LiveClient({ url: 'http://server.test', apiKey: 'key', accessToken: 'ada', WebSocket, ...options });
  const states = [];
  client.subscribe((state) => states.push(state));
  return {
    client,
    sockets,
    states,
    /** Lets time pass; by default so much that what has arrived is shown. */
    pass(ms = 16) {
      now += ms;
      t.mock.timers.tick(ms);
    },
    get socket() {
      return sockets.at(-1);
    }
  };
}

/** Listens to a query; returns what was heard. */
export function listen(query) {
  const heard = { snapshots: [], changes: [] };
  const ends = [
    query.subscribe((snapshot) => heard.snapshots.push(snapshot)),
    query.onChange((changes) => heard.changes.push(changes))
  ];
  heard.leave = () => ends.forEach((end) => end());
  return heard;
}

export const note = (n, more = {}) => ({ _id: `note/${n}`, _type: 'record', ...more });
export const ids = ({ records }) => records.map(({ _id: id }) => id.replace('note/', '')).join(' ');
