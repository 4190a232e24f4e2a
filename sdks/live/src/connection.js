/** One socket, from its opening to its end. */

const OPEN_MS = 10_000;
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
  /** The error that the server has sent last, about the connection. */
  #error;

  /**
   * `handlers` are `opened()`, `heard(frame)`, and `ended(ending)`, which is called once, unless the
   * connection is dropped. An ending has the close `code` if there was one, how long the socket was
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

  /**
   * Finds out whether the server is there. A socket does not notice when its network is gone, and
   * pages cannot send the pings of the protocol. Whatever the server says counts as an answer.
   */
  check() {
    if (!this.isOpen) return;
    this.#isHeard = false;
    this.send(PING);
    this.#await(this.#patienceMs, () => this.#ended({ isSilent: true }));
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
    this.#handlers.heard(frame);
  }

  #ended(ending) {
    const openMs = this.isOpen ? performance.now() - this.#openedAt : 0;
    this.drop();
    this.#handlers.ended({ ...ending, openMs, error: this.#error });
  }

  #listen() {
    this.#isHeard = false;
    this.#await(QUIET_MS, () => this.check());
  }

  /** Calls `otherwise` if nothing is heard for some time. */
  #await(ms, otherwise) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#isHeard ? this.#listen() : otherwise()), ms);
  }
}
