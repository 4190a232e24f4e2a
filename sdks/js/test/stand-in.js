// A server that stands in for Skytrail's in these tests: it does what a test tells it to do.

import { once } from 'node:events';

import { WebSocketServer } from 'ws';

export const QUIET = { debug() {}, info() {}, warn() {}, error() {} };

export class StandIn {
  /** Everything that workers said, in order, including messages that were sent again after a resume. */
  heard = [];
  connections = [];
  #server;
  #seq = 0;
  #received = 0;
  #session = 0;
  #waiting = [];
  welcome = { heartbeat_ms: 10_000, resume_ms: 15_000, max_message: 8388608 };
  /** Whether a session can be resumed. */
  resumes = true;

  static async start(options = {}) {
    const standIn = new StandIn();
    standIn.#server = new WebSocketServer({ port: 0, host: '127.0.0.1', ...options });
    standIn.#server.on('connection', (socket, request) => standIn.#connected(socket, request));
    await once(standIn.#server, 'listening');
    return standIn;
  }

  get endpoint() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  get socket() {
    return this.connections.at(-1).socket;
  }

  #connected(socket, request) {
    this.connections.push({ socket, headers: request.headers });
    socket.on('message', (data) => this.#hear(socket, JSON.parse(data)));
    this.#changed();
  }

  #hear(socket, message) {
    if (message.type === 'hello') this.#greet(socket, message);
    // A message from before a cut arrives again; it counts once.
    if (message.seq !== undefined && message.seq <= this.#received) return;
    this.#received = message.seq ?? this.#received;
    this.heard.push(message);
    this.#changed();
  }

  #greet(socket, hello) {
    const resumed = this.resumes && hello.resume?.session === `s${this.#session}`;
    if (!resumed) {
      this.#session += 1;
      this.#seq = this.#received = 0;
    }
    const session = { session: `s${this.#session}`, secret: 'x', features: ['resume'] };
    const gap = resumed ? { received: this.#received } : {};
    const welcome = { type: 'welcome', ...this.welcome, ...session, resumed, ...gap };
    socket.send(JSON.stringify(welcome));
  }

  send(message) {
    this.#seq += 1;
    this.socket.send(JSON.stringify({ seq: this.#seq, ...message }));
  }

  /** Sends a request and waits for its answer. */
  async ask(id, kind, name, members = {}) {
    this.send({ type: 'request', id, kind, name, timeout_ms: 30_000, ...members });
    return this.response(id);
  }

  response(id) {
    return this.find((message) => message.type === 'response' && message.id === id);
  }

  /** Waits for a message. */
  async find(fits) {
    await this.until(() => this.heard.some(fits));
    return this.heard.find(fits);
  }

  /** Waits until a condition is true; checks whenever something happened. */
  async until(isTrue) {
    const deadline = Date.now() + 20_000;
    while (!isTrue()) {
      if (Date.now() > deadline) throw new Error(`not in time: ${isTrue}`);
      await new Promise((resolve) => {
        this.#waiting.push(resolve);
        setTimeout(resolve, 20);
      });
    }
  }

  #changed() {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  close() {
    for (const { socket } of this.connections) socket.terminate();
    this.#server.close();
  }
}
