// What a client says to the server: actions, files, and listening.

/** An answer that says no: `code` and `message` are the server's. */
export class Refusal extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

export class Server {
  constructor(apiKey) {
    this.apiKey = apiKey;
    this.token = null;
  }

  /** Runs an action. Throws a Refusal, or a TypeError when the network is away. */
  async call(action, body) {
    const headers = { 'Content-Type': 'application/json', 'X-Skygear-API-Key': this.apiKey };
    if (this.token) headers['X-Skygear-Access-Token'] = this.token;
    const path = `/${action.replaceAll(':', '/')}`;
    const response = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) });
    const answer = await response.json();
    if (answer.error) throw new Refusal(answer.error);
    return answer.result;
  }

  /** Runs one of the plugin's. */
  ask(name, args = {}) {
    return this.call(name, { args });
  }

  /** Saves one record. */
  async save(record) {
    const [saved] = await this.call('record:save', { records: [record] });
    if (saved._type === 'error') throw new Refusal(saved);
    return saved;
  }

  query(type, predicate, order, limit) {
    const sort = [[field('_created_at'), order]];
    return this.call('record:query', { record_type: type, predicate, sort, limit });
  }

  /** Sends a file; returns the value for a record's field. */
  async upload(file) {
    const type = file.type || 'application/octet-stream';
    const { asset, 'post-request': request } = await this.call('asset:put', {
      filename: file.name, 'content-type': type, 'content-size': file.size,
    });
    const form = new FormData();
    for (const [name, value] of Object.entries(request['extra-fields'] ?? {})) form.set(name, value);
    form.set('file', file);
    const headers = { 'X-Skygear-API-Key': this.apiKey };
    const response = await fetch(request.action, { method: 'POST', headers, body: form });
    if (!response.ok) throw new Error(`the file was not taken: ${response.status}`);
    return { $type: 'asset', $name: asset.$name };
  }
}

export const field = (name) => ({ $type: 'keypath', $val: name });
export const reference = (id) => ({ $type: 'ref', $id: id });
export const date = (text) => ({ $type: 'date', $date: text });

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;

/**
 * Listens to channels, and connects again whenever that ends. What is published meanwhile is
 * missed: `onReady` runs after each connecting, when everything from then on is heard, so that
 * the rest can be asked for.
 */
export class Channels {
  constructor(apiKey, { onReady, onLost }) {
    this.url = new URL(`/pubsub?api_key=${encodeURIComponent(apiKey)}`, location.href);
    this.url.protocol = this.url.protocol.replace('http', 'ws');
    this.listeners = new Map();
    this.pause = FIRST_PAUSE_MS;
    this.onReady = onReady;
    this.onLost = onLost;
    addEventListener('offline', () => this.socket?.close());
    addEventListener('online', () => this.connect());
    this.connect();
  }

  on(channel, listener) {
    if (this.listeners.has(channel)) return;
    this.listeners.set(channel, listener);
    this.#send({ action: 'sub', channel });
  }

  connect() {
    clearTimeout(this.timer);
    if (this.socket && this.socket.readyState <= WebSocket.OPEN) return;
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.onopen = () => this.#opened(socket);
    socket.onmessage = ({ data }) => this.#heard(data);
    socket.onclose = () => this.#closed(socket);
  }

  #opened(socket) {
    for (const channel of this.listeners.keys()) this.#send({ action: 'sub', channel });
    // Nobody says when a subscription has begun. But frames are taken in their order: who hears
    // himself on a channel that is only his hears all the others.
    const own = crypto.randomUUID?.() ?? String(Math.random());
    this.listeners.set(own, () => {
      this.listeners.delete(own);
      this.#send({ action: 'unsub', channel: own });
      this.pause = FIRST_PAUSE_MS;
      if (socket === this.socket) this.onReady();
    });
    this.#send({ action: 'sub', channel: own });
    this.#send({ action: 'pub', channel: own, data: {} });
  }

  #closed(socket) {
    if (socket !== this.socket) return;
    this.onLost();
    this.timer = setTimeout(() => this.connect(), this.pause * (0.5 + Math.random()));
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS);
  }

  #heard(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      // The server's complaints are plain text.
      console.error(text);
      return;
    }
    this.listeners.get(message.channel)?.(message.data);
  }

  #send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }
}
