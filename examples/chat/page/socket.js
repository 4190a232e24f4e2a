// Sockets that are opened again whenever they end: channels, and live queries.

import { Refusal } from './server.js';

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
/** The server lets nobody listen to more than 500. */
const MAX_CHANNELS = 400;

/** A socket to a path of the server. Who extends it says what is done when it is open, and what is heard. */
class LastingSocket {
  /** `changed` is called when `isReady` is another. */
  constructor(path, parameters, changed) {
    this.url = new URL(`${path}?${new URLSearchParams(parameters)}`, location.href);
    this.url.protocol = this.url.protocol.replace('http', 'ws');
    this.changed = changed;
    this.pause = FIRST_PAUSE_MS;
    this.isReady = false;
    this.isEnded = false;
    addEventListener('offline', () => this.socket?.close());
    addEventListener('online', () => this.connect());
  }

  connect() {
    clearTimeout(this.timer);
    if (this.isEnded || this.socket?.readyState <= WebSocket.OPEN) return;
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.onopen = () => this.opened(socket);
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = () => this.#closed(socket);
  }

  /** Lets go of it for good. */
  end() {
    this.isEnded = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  /** All is well: the next pause is a short one. */
  settled() {
    this.pause = FIRST_PAUSE_MS;
    if (this.isReady) return;
    this.isReady = true;
    this.changed();
  }

  send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  #closed(socket) {
    if (socket !== this.socket || this.isEnded) return;
    this.isReady = false;
    this.changed();
    this.timer = setTimeout(() => this.connect(), this.pause * (0.5 + Math.random()));
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS);
  }

  #received(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      // The server's complaints are plain text.
      console.error(text);
      return;
    }
    this.heard(message);
  }
}

/**
 * Listens to channels. Whoever has the client key can listen and publish there, signed in or not: what
 * is heard is a hint that it may be worth while to ask, and never the thing itself. What is published
 * while the socket is closed is missed; each time that it `isReady` everything from then on is heard,
 * so that the rest can be asked for.
 */
export class Channels extends LastingSocket {
  constructor(apiKey, changed) {
    super('/pubsub', { api_key: apiKey }, changed);
    this.listeners = new Map();
    this.connect();
  }

  on(channel, listener) {
    if (this.listeners.has(channel) || this.listeners.size >= MAX_CHANNELS) return;
    this.listeners.set(channel, listener);
    this.send({ action: 'sub', channel });
  }

  publish(channel, data) {
    this.send({ action: 'pub', channel, data });
  }

  opened() {
    for (const channel of this.listeners.keys()) this.send({ action: 'sub', channel });
    // Nobody says when a subscription has begun. But frames are taken in their order: who hears
    // himself on a channel that is only his hears all the others.
    this.echo = String(Math.random());
    this.send({ action: 'sub', channel: this.echo });
    this.publish(this.echo, {});
  }

  heard({ channel, data }) {
    if (channel === this.echo) {
      this.send({ action: 'unsub', channel });
      this.settled();
    } else if (data) {
      this.listeners.get(channel)?.(data);
    }
  }
}

/**
 * Follows queries: a result, and then everything that happens to it. Each event says its position in
 * the server's log; after a break a query goes on from the last one, and what was missed comes by
 * itself. If that was too long ago the server says `reset`, and the result comes anew.
 *
 * A follower has `result(records)`, `take(record)`, `drop(id)`, and `failed(error)`, after which it is
 * told nothing more.
 */
export class LiveQueries extends LastingSocket {
  /** `ended` is called with a Refusal when the session is over. */
  constructor(apiKey, token, { changed, ended }) {
    super('/live', { api_key: apiKey, access_token: token }, changed);
    this.ended = ended;
    this.queries = new Map();
    this.connect();
  }

  /** Follows a query, from a `place` that an earlier `unfollow` has returned. */
  follow(id, query, follower, place = {}) {
    const known = { query, follower, place };
    this.queries.set(id, known);
    this.#ask(id, known);
  }

  /** Follows it no more; returns the place up to which everything was told. */
  unfollow(id) {
    const { place } = this.queries.get(id) ?? {};
    if (this.queries.delete(id)) this.send({ action: 'live:unsubscribe', id });
    return place;
  }

  opened() {
    for (const [id, known] of this.queries) this.#ask(id, known);
  }

  heard({ id, event, position, timeline, record, records, error }) {
    if (event === 'error' && id == null) {
      // It is about the connection: the session has ended, or will not be heard.
      const refusal = new Refusal(error);
      if (refusal.isSessionOver) this.ended(refusal);
      else console.error(error);
      return;
    }
    const known = this.queries.get(id);
    if (!known) return;
    const { follower } = known;
    if (event === 'result') known.arriving?.push(...records);
    if (event === 'reset') Object.assign(known, { arriving: [], place: {} });
    if (event === 'enter' || event === 'change') follower.take(record);
    if (event === 'leave') follower.drop(record._id);
    if (event === 'ready') {
      this.settled();
      if (known.arriving) follower.result(known.arriving);
      known.arriving = null;
    }
    if (event === 'error') {
      this.queries.delete(id);
      follower.failed(error);
    }
    if (position) known.place.from = position;
    if (timeline) known.place.timeline = timeline;
  }

  #ask(id, known) {
    // Without a place the result comes from its beginning.
    known.arriving = known.place.from ? null : [];
    this.send({ action: 'live:subscribe', id, ...known.query, ...known.place });
  }
}
