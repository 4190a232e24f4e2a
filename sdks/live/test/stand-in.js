/** A WebSocket whose server is the test. */
export class Socket {
  static CONNECTING = 0;
  static OPEN = 1;
  static all = [];

  readyState = Socket.CONNECTING;
  sent = [];

  constructor(url) {
    this.url = new URL(url);
    Socket.all.push(this);
  }

  static get last() {
    return Socket.all.at(-1);
  }

  open() {
    this.readyState = Socket.OPEN;
    this.onopen();
    return this;
  }

  send(text) {
    if (this.readyState === Socket.CONNECTING) throw new Error('the socket is not open');
    this.sent.push(JSON.parse(text));
  }

  /** The last message with an action. */
  asked(action = 'live:subscribe') {
    return this.sent.findLast((message) => message.action === action);
  }

  tell(...frames) {
    for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) });
  }

  /** As both ends do it: the event comes later, if at all. */
  close() {
    this.isClosed = true;
  }

  /** The connection ends. */
  end(code = 1006) {
    this.readyState = 3;
    this.onclose({ code });
  }
}
