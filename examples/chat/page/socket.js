// Sockets that are opened again whenever they end: channels, and live queries.

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;

/** A socket to a path of the server. Who extends it says what is done when it is open, and what is heard. */
class LastingSocket {
  constructor(path, parameters) {
    this.url = new URL(`${path}?${new URLSearchParams(parameters)}`, location.href);
    this.url.protocol = this.url.protocol.replace('http', 'ws');
    this.pause = FIRST_PAUSE_MS;
    addEventListener('offline', () => this.socket?.close());
    addEventListener('online', () => this.connect());
  }

  connect() {
    clearTimeout(this.timer);
    if (this.socket && this.socket.readyState <= WebSocket.OPEN) return;
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.onopen = () => this.opened(socket);
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = () => this.#closed(socket);
  }

  /** All is well: the next pause is a short one. */
  settled() {
    this.pause = FIRST_PAUSE_MS;
  }

  lost() {}

  send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  #closed(socket) {
    if (socket !== this.socket) return;
    this.lost();
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
 * Listens to channels. What is published while the socket is closed is missed: `onReady` runs after
 * each connecting, when everything from then on is heard, so that the rest can be asked for.
 */
export class Channels extends LastingSocket {
  constructor(apiKey, { onReady, onLost }) {
    super('/pubsub', { api_key: apiKey });
    this.listeners = new Map();
    this.onReady = onReady;
    this.onLost = onLost;
    this.connect();
  }

  on(channel, listener) {
    if (this.listeners.has(channel)) return;
    this.listeners.set(channel, listener);
    this.send({ action: 'sub', channel });
  }

  opened(socket) {
    for (const channel of this.listeners.keys()) this.send({ action: 'sub', channel });
    // Nobody says when a subscription has begun. But frames are taken in their order: who hears
    // himself on a channel that is only his hears all the others.
    const own = crypto.randomUUID?.() ?? String(Math.random());
    this.listeners.set(own, () => {
      this.listeners.delete(own);
      this.send({ action: 'unsub', channel: own });
      this.settled();
      if (socket === this.socket) this.onReady();
    });
    this.send({ action: 'sub', channel: own });
    this.send({ action: 'pub', channel: own, data: {} });
  }

  lost() {
    this.onLost();
  }

  heard({ channel, data }) {
    this.listeners.get(channel)?.(data);
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
  constructor(apiKey, token) {
    super('/live', { api_key: apiKey, access_token: token });
    this.queries = new Map();
    this.connect();
  }

  follow(id, query, follower) {
    const known = { query, follower, place: {}, arriving: null };
    this.queries.set(id, known);
    this.#ask(id, known);
  }

  opened() {
    for (const [id, known] of this.queries) this.#ask(id, known);
  }

  heard({ id, event, position, timeline, record, records, error }) {
    const known = this.queries.get(id);
    if (!known) return;
    const { follower } = known;
    if (event === 'result') (known.arriving ??= []).push(...records);
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

  #ask(id, { query, place }) {
    this.send({ action: 'live:subscribe', id, ...query, ...place });
  }
}
