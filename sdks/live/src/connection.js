/** One socket, from its opening to its end. */

const OPEN_MS = 10_000;
/** After so long without a word, the server is asked whether it is there. */
const QUIET_MS = 15_000;
/** Somebody who waits is as much less patient. */
const WAKE_SHARE = 1 / 3;
/** A server that talks may take so many times longer to answer: much can be on its way. */
const TALK_TIMES = 4;
/** What the server says unasked. Everything else answers something that was sent to it. */
const UNASKED = ['enter', 'change', 'leave'];
const PING = JSON.stringify({ action: 'live:ping' });

export class Connection {
  isOpen = false;
  #socket;
  #handlers;
  /** How long the server may take to say anything when it is asked. */
  #patience;
  #timer;
  #openedAt;
  #isHeard = false;
  #isAnswered = false;
  /** For so long the server has said this and that, but answered nothing. */
  #unansweredMs = 0;
  /** When the first ping was sent that is not answered yet. */
  #pingedAt;
  /** The error that the server has sent last, about the connection. */
  #error;

  /**
   * `handlers` are `opened()`, `heard(frame)`, and `ended(ending)`, which is called once, unless the
   * connection is dropped. An ending has the close `code` if there was one, how long the socket was
   * open (`openMs`), an `error` if the server refuses the client, and `isSilent` if it did not
   * answer.
   */
  constructor(socket, patience, handlers) {
    this.#socket = socket;
    this.#patience = patience;
    this.#handlers = handlers;
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => this.#heard(data);
    // The close follows and says more, except that node's first sockets do not close if they never opened.
    socket.onerror = () => this.isOpen || this.#ended({});
    socket.onclose = ({ code }) => this.#ended({ code });
    this.#timer = setTimeout(() => this.#ended({}), OPEN_MS);
  }

  send(text) {
    this.#socket.send(text);
  }

  /** Finds out whether the server is there, for somebody who waits for it. A result on its way is not cut short. */
  checkNow(isLoading) {
    if (this.isOpen) this.#check(this.#patience.ms * (isLoading ? 1 : WAKE_SHARE));
  }

  /** Ends it, and reports nothing more. */
  drop() {
    const socket = this.#socket;
    this.isOpen = false;
    clearTimeout(this.#timer);
    // Not waited for: without a network, the socket takes minutes to close.
    // Without a handler for errors, `ws` would throw.
    socket.onopen = socket.onmessage = socket.onerror = socket.onclose = () => {};
    socket.close();
  }

  #opened() {
    this.isOpen = true;
    this.#openedAt = performance.now();
    this.#listen();
    this.#handlers.opened();
  }

  #heard(text) {
    this.#isHeard = true;
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    // The connection goes on, so the last error was about a message that the server could not read.
    if (this.#error) console.error(`live queries: ${this.#error.message}`);
    this.#error = frame.id === undefined && frame.event === 'error' ? frame.error : undefined;
    if (frame.event === 'pong') this.#ponged();
    if (!UNASKED.includes(frame.event)) this.#isAnswered = true;
    this.#handlers.heard(frame);
  }

  #ended(ending) {
    const openMs = this.isOpen ? performance.now() - this.#openedAt : 0;
    this.drop();
    this.#handlers.ended({ ...ending, openMs, error: this.#error });
  }

  #ponged() {
    if (this.#pingedAt === undefined) return;
    this.#patience.answered(performance.now() - this.#pingedAt);
    this.#pingedAt = undefined;
  }

  #listen() {
    this.#isHeard = false;
    this.#await(QUIET_MS, () => this.#check(this.#patience.ms));
  }

  /**
   * Asks whether the server is there. A socket does not notice when its network is gone, and pages
   * cannot send the pings of the protocol. Whatever the server says is a sign of life.
   */
  #check(patienceMs) {
    this.#isHeard = false;
    this.#ping();
    this.#await(patienceMs, () => this.#ended({ isSilent: true }));
  }

  #ping() {
    this.#pingedAt ??= performance.now();
    this.send(PING);
  }

  /** Goes on if something is heard within some time, and calls `otherwise` if not. */
  #await(ms, otherwise) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#isHeard ? this.#goOn(ms) : otherwise()), ms);
  }

  /** The server has talked for so long; but what is sent to it may be lost on the way. */
  #goOn(ms) {
    this.#unansweredMs = this.#isAnswered ? 0 : this.#unansweredMs + ms;
    this.#isAnswered = false;
    if (this.#unansweredMs > TALK_TIMES * this.#patience.ms) return this.#ended({ isSilent: true });
    if (this.#unansweredMs) this.#ping();
    return this.#listen();
  }
}
