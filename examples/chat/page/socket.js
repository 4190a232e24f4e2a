// Sockets that reconnect whenever they end: channels, and live queries.

import { Refusal } from './server.js';

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
/** The server allows no more than 500 subscriptions. */
const MAX_CHANNELS = 400;

/** A socket to a path of the server. Subclasses define what happens when it opens or a text arrives. */
class LastingSocket {
  /** `changed` is called when `isReady` changes. */
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

  /** Closes it for good. */
  end() {
    this.isEnded = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  /** Resets the pause before the next reconnect, because all is well. */
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
      // The server's error texts are plain text.
      console.error(text);
      return;
    }
    this.heard(message);
  }
}

/**
 * Listens to channels. Anyone with the client key can listen and publish there, signed in or not: a
 * text from a channel is only a hint to ask the server, never the thing itself. What is published
 * while the socket is closed is missed. Once `isReady` is true, everything published later is heard,
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
    // The server does not confirm a subscription, but it handles frames in order: a client that
    // hears itself on a channel of its own hears all the others.
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
 * Follows queries: a result, and then everything that happens to it. Each event carries its position
 * in the server's log. After a break, a query continues after the last position, and the server sends
 * what was missed. If that position is too old, the server says `reset` and sends the result anew.
 *
 * If it cannot answer at present, it is asked again.
 *
 * A follower has `result(records)`, `take(record)`, `drop(id)`, and `failed(error)`, after which it
 * receives nothing more.
 */
export class LiveQueries extends LastingSocket {
  /** `ended` is called with a Refusal when the session is over. */
  constructor(apiKey, token, { changed, ended }) {
    super('/live', { api_key: apiKey, access_token: token }, changed);
    this.ended = ended;
    /** What is followed, by name. */
    this.queries = new Map();
    /** The same by id. An id is used once: after a query has ended, some of its frames can still arrive. */
    this.asked = new Map();
    this.numAsked = 0;
    this.connect();
  }

  /** Follows a query, from a `place` that an earlier `unfollow` has returned. */
  follow(name, query, follower, place = {}) {
    const known = { name, query, follower, place };
    this.queries.set(name, known);
    this.#ask(known);
  }

  /** Stops following a query; returns the place up to which everything was reported. */
  unfollow(name) {
    const known = this.queries.get(name);
    if (!known) return undefined;
    this.#forget(known);
    this.send({ action: 'live:unsubscribe', id: known.id });
    return known.place;
  }

  opened() {
    for (const known of this.queries.values()) this.#ask(known);
  }

  heard({ id, event, position, timeline, record, records, error }) {
    if (event === 'error' && id == null) {
      // The error is about the connection: the session has ended, or was rejected.
      const refusal = new Refusal(error);
      if (refusal.isSessionOver) this.ended(refusal);
      else console.error(error);
      return;
    }
    const known = this.asked.get(id);
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
    if (event === 'error' && error.info?.retry_after_ms) {
      this.#askLater(known, error.info.retry_after_ms);
    } else if (event === 'error') {
      this.#forget(known);
      follower.failed(error);
    }
    if (position) known.place.from = position;
    if (timeline) known.place.timeline = timeline;
  }

  /** Asks again, not at the same moment as all others, if nobody has asked or left meanwhile. */
  #askLater(known, pause) {
    const { id } = known;
    this.asked.delete(id);
    setTimeout(() => {
      if (this.queries.get(known.name) === known && known.id === id) this.#ask(known);
    }, pause * (1 + Math.random()));
  }

  #forget({ name, id }) {
    this.queries.delete(name);
    this.asked.delete(id);
  }

  #ask(known) {
    this.asked.delete(known.id);
    known.id = String((this.numAsked += 1));
    this.asked.set(known.id, known);
    // Without a place, the server sends the whole result.
    known.arriving = known.place.from ? null : [];
    this.send({ action: 'live:subscribe', id: known.id, ...known.query, ...known.place });
  }
}
