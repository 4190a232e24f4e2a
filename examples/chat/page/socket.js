// The channels of the rooms.

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
/** The server allows no more than 500 subscriptions. */
const MAX_CHANNELS = 400;

/**
 * Listens to channels, over a socket that reconnects whenever it ends. Anyone with the client key can
 * listen and publish there, signed in or not: a text from a channel is only a hint to ask the server,
 * never the thing itself. What is published while the socket is closed is missed. Once `isReady` is
 * true, everything published later is heard, so that the rest can be asked for.
 */
export class Channels {
  /** `changed` is called when `isReady` changes. */
  constructor(apiKey, changed) {
    this.url = new URL(`/pubsub?${new URLSearchParams({ api_key: apiKey })}`, location.href);
    this.url.protocol = this.url.protocol.replace('http', 'ws');
    this.changed = changed;
    this.listeners = new Map();
    this.pause = FIRST_PAUSE_MS;
    this.isReady = false;
    this.isEnded = false;
    addEventListener('offline', () => this.socket?.close());
    addEventListener('online', () => this.#connect());
    this.#connect();
  }

  on(channel, listener) {
    if (this.listeners.has(channel) || this.listeners.size >= MAX_CHANNELS) return;
    this.listeners.set(channel, listener);
    this.#send({ action: 'sub', channel });
  }

  publish(channel, data) {
    this.#send({ action: 'pub', channel, data });
  }

  /** Closes the socket for good. */
  end() {
    this.isEnded = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  #connect() {
    clearTimeout(this.timer);
    if (this.isEnded || this.socket?.readyState <= WebSocket.OPEN) return;
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = () => this.#closed(socket);
  }

  #opened() {
    for (const channel of this.listeners.keys()) this.#send({ action: 'sub', channel });
    // The server does not confirm a subscription, but it handles frames in order: a client that
    // hears itself on a channel of its own hears all the others.
    this.echo = String(Math.random());
    this.#send({ action: 'sub', channel: this.echo });
    this.publish(this.echo, {});
  }

  #closed(socket) {
    if (socket !== this.socket || this.isEnded) return;
    this.isReady = false;
    this.changed();
    this.timer = setTimeout(() => this.#connect(), this.pause * (0.5 + Math.random()));
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
    const { channel, data } = message;
    if (channel !== this.echo) {
      if (data) this.listeners.get(channel)?.(data);
      return;
    }
    this.#send({ action: 'unsub', channel });
    this.pause = FIRST_PAUSE_MS;
    this.isReady = true;
    this.changed();
  }

  #send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }
}
