import { Backoff } from './backoff.js';
import { Connection } from './connection.js';
import { LiveError } from './error.js';
import { Listeners, whole } from './listeners.js';
import { Patience } from './patience.js';
import { LiveQuery } from './query.js';

/** The socket is closed so long after the last query has ended. */
const LINGER_MS = 5000;
/** What arrives within a frame of the screen is shown together. A snapshot of a long result takes some milliseconds. */
const FRAME_MS = 16;
/** The server takes messages of 1 MiB, and a character can have three bytes. It follows far shorter queries. */
const MAX_LENGTH = 2 ** 20 / 3;
/** For so long a query waits for another one to end before that is shown as an error. */
const FULL_MS = 2000;

/** Close codes: the client is refused, or too slow; a message was too large. */
const REFUSED = 1008;
const TOO_LARGE = 1009;
const INVALID_ARGUMENT = 108;

/** Follows queries over one socket, which it opens, keeps and closes as needed. */
export class LiveClient {
  #url;
  #apiKey;
  #token;
  #WebSocket;
  #onSessionOver;
  #listeners = new Listeners(() => this.#state, whole);
  #state = 'idle';
  /** Changes with the user. Queries compare it with theirs. */
  #session = {};
  /** The queries that are followed, by their feeds, in the order of their beginning. */
  #followed = new Map();
  /** Feeds by the ids of their present subscriptions. */
  #asked = new Map();
  #numAsked = 0;
  /** Feeds that wait until another one ends, because the server follows no more at a time. */
  #full = new Set();
  /** What is published of queries that have changed, and when. */
  #changed = new Set();
  #publishing;
  #connection = null;
  #patience = new Patience();
  #backoff = new Backoff();
  /** Runs out when it is time to connect, or to close the socket. */
  #timer;

  constructor({ url = '/', apiKey, accessToken, WebSocket = globalThis.WebSocket, onSessionOver } = {}) {
    if (!WebSocket) throw new TypeError('there is no WebSocket here: pass one');
    this.#url = socketUrl(url);
    this.#apiKey = apiKey;
    this.#token = accessToken;
    this.#WebSocket = WebSocket;
    this.#onSessionOver = onSessionOver;
  }

  get state() {
    return this.#state;
  }

  subscribe = (listener) => {
    const entry = this.#listeners.add(listener);
    this.#listeners.tell(entry);
    return () => this.#listeners.delete(entry);
  };

  query(parameters, options) {
    const client = {
      session: () => this.#session,
      follow: (feed, query) => this.#follow(feed, query),
      unfollow: (feed) => this.#unfollow(feed),
      retry: (feed) => this.#retry(feed),
      publish: (query) => this.#publishSoon(query)
    };
    return new LiveQuery(client, parameters, options);
  }

  setAccessToken(token) {
    if (token === this.#token && this.#state !== 'over') return;
    this.#token = token;
    this.#session = {};
    this.#backoff.reset();
    this.#disconnect('idle');
    this.#connect();
  }

  wake = () => {
    this.#backoff.reset();
    if (this.#state === 'waiting') this.#connect();
    else this.#connection?.checkNow(this.#unanswered().length > 0);
    for (const feed of this.#followed.keys()) this.#retry(feed);
  };

  close() {
    for (const query of this.#followed.values()) query.close();
    this.#disconnect('idle');
  }

  // -- queries -----------------------------------------------------------------------------------

  #follow(feed, query) {
    this.#followed.set(feed, query);
    // Somebody asks again after an error.
    feed.interrupt(null);
    if (this.#state === 'idle') this.#connect();
    else if (this.#state === 'live') this.#ask(feed);
  }

  #unfollow(feed) {
    this.#followed.delete(feed);
    this.#full.delete(feed);
    if (this.#asked.delete(feed.id)) {
      this.#connection.send(JSON.stringify({ action: 'live:unsubscribe', id: feed.id }));
      this.#askNext();
    }
    feed.interrupt();
    if (this.#followed.size) return;
    if (this.#state === 'waiting') this.#disconnect('idle');
    if (this.#connection) this.#after(LINGER_MS, () => this.#closeIfUnused());
  }

  /** Asks once more for a query that was refused: its reason may have passed. */
  #retry(feed) {
    if (feed.isRefused && this.#state === 'live') this.#ask(feed);
  }

  #publishSoon(query) {
    this.#changed.add(query);
    this.#publishing ??= setTimeout(() => this.#publish(), FRAME_MS);
  }

  /** Shows all queries' changes at once: a record that moves from one to another is always in one. */
  #publish() {
    this.#publishing = undefined;
    const changed = [...this.#changed];
    this.#changed.clear();
    for (const query of changed) query.update();
    for (const query of changed) query.tell();
  }

  #ask(feed) {
    this.#full.delete(feed);
    const id = String((this.#numAsked += 1));
    const text = feed.ask(id);
    if (text.length > MAX_LENGTH) {
      feed.interrupt(tooLong());
      this.#askNext();
      return;
    }
    this.#asked.set(id, feed);
    this.#connection.send(text);
  }

  /** Asks a query that waits for a place. */
  #askNext() {
    const [feed] = this.#full;
    if (feed) this.#ask(feed);
  }

  #heard({ id, ...event }) {
    const feed = this.#asked.get(id);
    if (!feed) return;
    if (event.event === 'error') this.#failed(feed, event.error);
    else feed.take(event);
  }

  /** Handles that the server does not follow a query, or no longer. */
  #failed(feed, error) {
    this.#asked.delete(feed.id);
    const { retry_after_ms: pause, limit } = error.info ?? {};
    if (pause !== undefined) {
      feed.interrupt();
      // Not at the same moment as all others.
      feed.timer = setTimeout(() => this.#ask(feed), pause * (1 + Math.random()));
    } else if (limit?.name === 'LIVE_MAX_SUBSCRIPTIONS') {
      feed.interrupt();
      this.#full.add(feed);
      feed.timer = setTimeout(() => feed.interrupt(new LiveError(error)), FULL_MS);
      // A place can have become free while the error was on its way.
      if (this.#asked.size < limit.max) this.#askNext();
    } else {
      const isSame = feed.error?.code === error.code && feed.error.message === error.message;
      feed.interrupt(isSame ? feed.error : new LiveError(error));
      feed.isRefused = true;
      this.#askNext();
    }
  }

  // -- the socket --------------------------------------------------------------------------------

  #connect() {
    if (this.#connection || this.#token === null || !this.#followed.size) return;
    clearTimeout(this.#timer);
    const credentials = { api_key: this.#apiKey, access_token: this.#token };
    const shown = Object.entries(credentials).filter(([, value]) => value !== undefined);
    const query = shown.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&');
    const socket = new this.#WebSocket(`${this.#url}?${query}`);
    this.#connection = new Connection(socket, this.#patience, {
      opened: () => this.#opened(),
      heard: (frame) => this.#heard(frame),
      ended: (ending) => this.#ended(ending)
    });
    this.#become('connecting');
    this.#listeners.tellAll();
  }

  #opened() {
    this.#become('live');
    for (const feed of this.#followed.keys()) if (!feed.error || feed.isRefused) this.#ask(feed);
    this.#listeners.tellAll();
  }

  #ended({ code, error, openMs, isSilent }) {
    if (isSilent && this.#unanswered().length) this.#patience.lose();
    if (code === REFUSED && error) {
      const session = this.#session;
      this.#disconnect('over');
      // Who hears of the state may have begun another session.
      if (session === this.#session) this.#onSessionOver?.(new LiveError(error));
      return;
    }
    if (code === TOO_LARGE) this.#dropLargest();
    this.#disconnect(this.#followed.size ? 'waiting' : 'idle');
    if (this.#state === 'waiting') this.#after(this.#backoff.pauseMs(openMs), () => this.#connect());
  }

  /** Returns what was asked for, and has not come or not all of it. */
  #unanswered() {
    return [...this.#asked.values()].filter(({ result }) => !result.isCurrent);
  }

  /** Somebody on the way, such as a proxy, accepts less than the server. Asked again, it would be the same. */
  #dropLargest() {
    const [largest] = this.#unanswered().sort((a, b) => b.length - a.length);
    largest?.interrupt(tooLong());
  }

  #closeIfUnused() {
    if (!this.#followed.size) this.#disconnect('idle');
  }

  #disconnect(state) {
    clearTimeout(this.#timer);
    this.#connection?.drop();
    this.#connection = null;
    this.#asked.clear();
    // Before anybody is told anything: whoever is can begin a query, and connect.
    this.#become(state);
    for (const feed of this.#followed.keys()) feed.interrupt(this.#full.has(feed) ? null : feed.error);
    this.#full.clear();
    this.#listeners.tellAll();
  }

  #after(ms, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, ms);
  }

  #become(state) {
    const before = this.#state;
    if (state === before) return;
    this.#state = state;
    if (isActive(state) !== isActive(before)) this.#observe(isActive(state));
  }

  /** Begins or stops to observe what a browser says about its network and its page. */
  #observe(isActive) {
    const change = isActive ? 'addEventListener' : 'removeEventListener';
    globalThis[change]?.('online', this.wake);
    globalThis[change]?.('offline', this.#offline);
    globalThis.document?.[change]('visibilitychange', this.#shown);
  }

  #offline = () => {
    if (this.#connection) this.#ended({ openMs: 0 });
  };

  #shown = () => {
    if (globalThis.document.visibilityState === 'visible') this.wake();
  };
}

const tooLong = () => new LiveError({ code: INVALID_ARGUMENT, message: 'the query is too long' });

const isActive = (state) => state !== 'idle' && state !== 'over';

/** Returns the address of live queries at a server; one without a host is that of the page's server. */
function socketUrl(url) {
  let href = '';
  try {
    ({ href } = new URL(url, globalThis.location?.href));
  } catch {
    // As one of another protocol.
  }
  // Also `localhost:80` has a protocol, `localhost:`.
  if (!/^(http|ws)s?:/.test(href)) throw new TypeError(`url must begin with http:// or https://: ${url}`);
  const server = href.replace(/^http/, 'ws').replace(/\/+$/, '');
  if (server.endsWith('/live')) throw new TypeError(`url is the server's address, without /live: ${url}`);
  return `${server}/live`;
}
