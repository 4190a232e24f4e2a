/** One socket, from its opening to its end. */

const OPEN_MS = 10_000;
/** How long the server may take to say anything when it is asked, at first. */
export const PATIENCE_MS = 15_000;
/** The same for one that has answered before, when somebody looks at the page again. */
const WAKE_MS = 5000;
/** So many pings in a row can go unanswered while the server says other things. */
const MAX_UNANSWERED = 2;
/** After so long without a word, the server is asked whether it is there. */
const QUIET_MS = 15_000;
const PING = JSON.stringify({ action: 'live:ping' });

export class Connection {
  isOpen = false;
  #socket;
  #handlers;
  /** How long the server may take to say anything when it is asked. */
  #patienceMs;
  #timer;
  #openedAt;
  #isHeard = false;
  /** How many pings in a row were not answered, though the server may have said other things. */
  #numUnanswered = 0;
  /** Whether the server has answered a ping, ever and lately. */
  #hasAnswered = false;
  #hasAnsweredLately = false;
  /** The error that the server has sent last, about the connection. */
  #error;

  /**
   * `handlers` are `opened()`, `heard(frame)`, `answered()`, called when the server has answered a
   * ping, and `ended(ending)`, which is called once, unless the connection is dropped. An ending has the close `code` if there was one, how long the socket was
   * open (`openMs`), an `error` if the server refuses the client, and `isSilent` if it did not
   * answer.
   */
  constructor(socket, patienceMs, handlers) {
    this.#socket = socket;
    this.#patienceMs = patienceMs;
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

  /** Finds out whether the server is there, for somebody who waits for it. */
  checkNow() {
    if (this.isOpen) this.#check(this.#hasAnswered ? WAKE_MS : this.#patienceMs);
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
    // A server that does not know pings says so.
    if (frame.event === 'pong' || this.#error) this.#answered();
    this.#handlers.heard(frame);
  }

  #ended(ending) {
    const openMs = this.isOpen ? performance.now() - this.#openedAt : 0;
    this.drop();
    this.#handlers.ended({ ...ending, openMs, error: this.#error });
  }

  #answered() {
    this.#numUnanswered = 0;
    this.#hasAnswered = this.#hasAnsweredLately = true;
    this.#patienceMs = PATIENCE_MS;
    this.#handlers.answered();
  }

  #listen() {
    this.#isHeard = false;
    this.#await(QUIET_MS, () => this.#check(this.#patienceMs));
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
    this.#numUnanswered += 1;
    this.send(PING);
  }

  /** Goes on if something is heard within some time, and calls `otherwise` if not. */
  #await(ms, otherwise) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#isHeard ? this.#goOn() : otherwise()), ms);
  }

  /** The server talks; but what is sent to it may be lost on the way. */
  #goOn() {
    const isLost = this.#numUnanswered * QUIET_MS > MAX_UNANSWERED * this.#patienceMs;
    if (isLost) return this.#ended({ isSilent: true });
    if (!this.#hasAnsweredLately) this.#ping();
    this.#hasAnsweredLately = false;
    this.#listen();
  }
}
