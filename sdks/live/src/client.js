import { Backoff } from './backoff.js';
import { Followed, LiveQuery } from './query.js';

/** The server takes no larger message, and would end the connection. */
const MAX_QUERY_BYTES = 1 << 20;
/** How long a socket without queries stays open: a page that changes its view needs it again. */
const IDLE_MS = 5000;
/** A connection that takes longer to open never will. */
const OPENING_MS = 15_000;
/** How long a connection is silent before the server is asked whether it still works. */
const PING_MS = 25_000;
/** How long the answer may take; longer each time, because a long frame over a slow network looks like silence. */
const PONG_MS = 10_000;
const LONGEST_PONG_MS = 120_000;
/** The server rejects the client, which would be rejected again. */
const REJECTED = 1008;

/** One socket for any number of live queries, which opens with the first of them. */
export class LiveClient {
  #url;
  #WebSocket;
  #onSessionOver;
  #backoff = new Backoff();
  /** The queries that have not ended. */
  #queries = new Set();
  /** The same by the id of their subscription at the present socket. */
  #byId = new Map();
  #numAsked = 0;
  #socket;
  #state = 'idle';
  #listeners = new Set();
  /** When a socket is opened, given up or closed, and when a ping is due or its answer is late. */
  #timer;
  #pinging;
  #pongMs = PONG_MS;
  /** What the server has said of the connection itself. */
  #refusal;
  #goOnline = () => this.#retry();
  #goOffline = () => this.#socket && this.#lost(this.#socket);
  /** A page that was asleep for hours finds out soon what has become of its connection. */
  #comeBack = () => {
    if (globalThis.document.visibilityState !== 'visible') return;
    this.#retry();
    if (this.#state === 'live') this.#ping(this.#socket);
  };

  constructor({ url, apiKey, accessToken, onSessionOver, WebSocket = globalThis.WebSocket }) {
    if (!WebSocket) throw new TypeError('there is no WebSocket here: name one, such as that of ws');
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace('http', 'ws');
    this.#url.pathname = `${this.#url.pathname.replace(/\/$/, '')}/live`;
    if (apiKey !== undefined) this.#url.searchParams.set('api_key', apiKey);
    this.#setToken(accessToken);
    this.#WebSocket = WebSocket;
    this.#onSessionOver = onSessionOver;
    // Neither Node nor React Native has these.
    globalThis.addEventListener?.('online', this.#goOnline);
    globalThis.addEventListener?.('offline', this.#goOffline);
    globalThis.document?.addEventListener('visibilitychange', this.#comeBack);
  }

  /** 'idle' without queries, 'connecting', 'live', 'waiting' to try again, or 'over'. */
  get state() {
    return this.#state;
  }

  /** Calls `listener` after each change of the state; returns a function that ends this. */
  subscribe = (listener) => {
    const entry = { listener };
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  };

  /** Follows a query, which has the parameters of `record:query`. */
  query(parameters, options = {}) {
    const text = JSON.stringify(parameters);
    if (new TextEncoder().encode(text).length > MAX_QUERY_BYTES - 1024) {
      throw new RangeError('the query is too large');
    }
    // A copy: what the caller changes later is no part of the query.
    const followed = new Followed(JSON.parse(text), options, (it) => this.#leave(it));
    this.#queries.add(followed);
    if (this.#state === 'live') this.#ask(followed);
    else if (this.#state === 'over') followed.fail(this.#refusal);
    else this.#connect();
    return new LiveQuery(followed);
  }

  /** Goes on as another user, or as nobody: nothing that the last one saw stays. */
  setAccessToken(accessToken) {
    if (!this.#setToken(accessToken)) return;
    this.#end();
    this.#refusal = undefined;
    this.#backoff.reset();
    for (const followed of this.#queries) followed.forget();
    this.#become('idle');
    this.#connect();
  }

  /** Ends all queries, and the connection. */
  close() {
    this.#end();
    globalThis.removeEventListener?.('online', this.#goOnline);
    globalThis.removeEventListener?.('offline', this.#goOffline);
    globalThis.document?.removeEventListener('visibilitychange', this.#comeBack);
    for (const followed of [...this.#queries]) followed.close();
    this.#become('idle');
  }

  /** Returns whether it is another one. */
  #setToken(accessToken) {
    const { searchParams } = this.#url;
    const before = searchParams.get('access_token');
    if (accessToken) searchParams.set('access_token', accessToken);
    else searchParams.delete('access_token');
    return before !== searchParams.get('access_token');
  }

  // -- the connection ------------------------------------------------------------

  #connect() {
    if (this.#socket || this.#state === 'over' || this.#queries.size === 0) return;
    this.#become('connecting');
    const socket = new this.#WebSocket(this.#url.href);
    this.#socket = socket;
    this.#after(OPENING_MS, () => this.#lost(socket));
    socket.onopen = () => this.#opened(socket);
    socket.onmessage = ({ data }) => socket === this.#socket && this.#heard(socket, data);
    socket.onclose = ({ code }) => this.#lost(socket, code);
    // What follows says more.
    socket.onerror = () => {};
  }

  #opened(socket) {
    if (socket !== this.#socket) return;
    clearTimeout(this.#timer);
    this.#become('live');
    for (const followed of this.#queries) this.#ask(followed);
    this.#leaveIfIdle();
    this.#pingLater(socket);
  }

  #heard(socket, data) {
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    // Whatever is heard shows that the connection works.
    this.#pingLater(socket);
    this.#refusal = undefined;
    if (frame.event === 'error' && frame.id == null) {
      // Only if the connection ends with it: servers before `live:ping` answer that so.
      this.#refusal = frame.error;
      return;
    }
    const followed = this.#byId.get(frame.id);
    if (!followed) return;
    if (frame.event === 'error') {
      this.#failed(followed, frame.error);
      return;
    }
    if (frame.event === 'ready') this.#backoff.reset();
    followed.take(frame);
  }

  /** A socket has ended, or is given up. */
  #lost(socket, code) {
    if (socket !== this.#socket) return;
    this.#drop();
    // A client that was too slow is let go with the same code, and can come back.
    if (code === REJECTED && this.#refusal) {
      this.#refused();
      return;
    }
    for (const followed of this.#queries) followed.lost();
    if (this.#queries.size === 0) {
      this.#become('idle');
      return;
    }
    this.#become('waiting');
    this.#after(this.#backoff.next(), () => this.#retry());
  }

  #refused() {
    this.#become('over');
    for (const followed of this.#queries) followed.fail(this.#refusal);
    this.#onSessionOver?.(this.#refusal);
  }

  #retry() {
    if (this.#state === 'waiting') this.#connect();
  }

  /** Leaves the socket, which says nothing more. */
  #drop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#pinging);
    const socket = this.#socket;
    this.#socket = undefined;
    this.#byId.clear();
    try {
      socket?.close();
    } catch {
      // It was not open yet.
    }
  }

  #end() {
    this.#drop();
    for (const followed of this.#queries) followed.lost();
  }

  #after(ms, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, ms);
  }

  /** Asks from time to time whether the server is still there: pages learn that of no socket. */
  #pingLater(socket) {
    clearTimeout(this.#pinging);
    this.#pinging = setTimeout(() => this.#ping(socket), PING_MS);
  }

  #ping(socket) {
    clearTimeout(this.#pinging);
    socket.send(JSON.stringify({ action: 'live:ping' }));
    this.#pinging = setTimeout(() => {
      this.#pongMs = Math.min(2 * this.#pongMs, LONGEST_PONG_MS);
      this.#lost(socket);
    }, this.#pongMs);
  }

  #become(state) {
    if (state === this.#state) return;
    this.#state = state;
    for (const { listener } of [...this.#listeners]) listener();
  }

  // -- the queries ---------------------------------------------------------------

  #ask(followed) {
    this.#byId.delete(followed.id);
    followed.begin(String((this.#numAsked += 1)));
    this.#byId.set(followed.id, followed);
    const { id, parameters, known } = followed;
    this.#send({ ...parameters, ...known.place, action: 'live:subscribe', id });
  }

  #failed(followed, error) {
    const { id } = followed;
    this.#byId.delete(id);
    const pause = error.info?.retry_after_ms;
    if (pause === undefined) {
      this.#queries.delete(followed);
      followed.fail(error);
      this.#leaveIfIdle();
      return;
    }
    followed.lost();
    // Not at the same moment as all others.
    const again = () => {
      const isWaiting = followed.id === undefined && this.#queries.has(followed);
      if (isWaiting && this.#state === 'live') this.#ask(followed);
    };
    setTimeout(again, pause * (1 + Math.random()));
  }

  #leave(followed) {
    if (!this.#queries.delete(followed)) return;
    if (this.#byId.delete(followed.id)) this.#send({ action: 'live:unsubscribe', id: followed.id });
    this.#leaveIfIdle();
  }

  #leaveIfIdle() {
    if (this.#queries.size > 0) return;
    if (this.#state === 'waiting') this.#become('idle');
    if (this.#state !== 'live') return;
    this.#after(IDLE_MS, () => {
      if (this.#queries.size > 0) return;
      this.#drop();
      this.#become('idle');
    });
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }
}
