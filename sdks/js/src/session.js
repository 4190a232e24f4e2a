/**
 * A session with the server, without input and output.
 *
 * Texts go in (`receive`) and come out (`takeOutput`); time is an argument, in milliseconds. Sent
 * messages are numbered and kept until the server has acknowledged them, so that a session that lost
 * its socket can be resumed: after the next `hello`, each side sends again what the other has not
 * seen, and skips what it has. Nothing here waits, and nothing here knows of sockets or promises.
 */

import { ErrorCodes, errorToWire, MessageTooLarge } from './errors.js';
import { write } from './json.js';
import { ProtocolError, readers, requestFromWire } from './messages.js';

export const SUBPROTOCOL = 'skygear.plugin.v1';
export const MAX_MESSAGE = 8 * 1024 * 1024;
const SDK = 'skytrail-js/0.1';
/** How many calls may be under way, unless the server says otherwise. */
const MAX_CALLS = 64;

/** How much is kept for a resume; the server keeps the same. */
const MAX_KEPT_MESSAGES = 1000;
const MAX_KEPT_BYTES = 8 * 1024 * 1024;
/**
 * When this much was received and nothing sent has acknowledged it, a ping does, so that the server's
 * buffer of messages for this worker does not overflow.
 */
const ACK_MESSAGES = 100;
const ACK_BYTES = 1024 * 1024;
/** The space that a message's number and acknowledgement take in addition to its content. */
const ENVELOPE_BYTES = 64;
/** The longest explanation of why an answer cannot be sent; the explanation itself has to fit. */
const MAX_COMPLAINT_CHARS = 1000;

/** The state of one worker's session, over any number of sockets. */
export class Session {
  #hello;
  #window;
  #limits = { heartbeatMs: 10_000, resumeMs: 15_000, maxMessage: MAX_MESSAGE, maxCalls: MAX_CALLS };
  /** Session and secret, if it can be resumed. */
  #identity = null;
  #number = 0;
  #isOpen = false;
  #numCalls = 0;
  #output = [];
  #lastSent = 0;
  #lastReceived = 0;
  // The state of one session; see #begin.
  #sent;
  #received;
  #acknowledged;
  #kept;
  #keptBytes;
  #forgotten;
  #inFlight;
  #unackedMessages;
  #unackedBytes;

  /** `hello` has `plugin` and `worker`, and optionally `generation`, `window`, `maxMessage`. */
  constructor(hello) {
    this.#hello = { generation: 0, window: 16, maxMessage: MAX_MESSAGE, ...hello };
    this.#window = this.#hello.window;
    this.#begin();
  }

  #begin() {
    this.#sent = this.#received = this.#acknowledged = 0;
    this.#kept = [];
    this.#keptBytes = 0;
    // The highest number that was dropped before the server had it.
    this.#forgotten = 0;
    this.#inFlight = new Map();
    this.#unackedMessages = this.#unackedBytes = 0;
  }

  /** The session's number; a new one begins when the server does not resume. */
  get number() {
    return this.#number;
  }

  /** Whether the server has welcomed the current socket. */
  get isOpen() {
    return this.#isOpen;
  }

  get limits() {
    return this.#limits;
  }

  get window() {
    return this.#window;
  }

  /** How many requests have not been answered. */
  get numInFlight() {
    return this.#inFlight.size;
  }

  /** Whether the server has everything that was sent, or can no longer get it. */
  get isSettled() {
    return this.#kept.length === 0 || !this.isResumable;
  }

  /** Whether the server may still have this session, and nothing that it needs was dropped. */
  get isResumable() {
    return this.#identity !== null && this.#forgotten <= this.#acknowledged;
  }

  // -- sockets come and go -----------------------------------------------------------------------

  /** Says hello on a new socket. Deliveries start after position `from`. */
  connect(now, from = undefined) {
    const { plugin, worker, generation, maxMessage } = this.#hello;
    const message = {
      type: 'hello',
      plugin,
      worker,
      generation,
      // The window of a hello must be at least 1; a worker that pauses says so afterwards.
      window: Math.max(1, this.#window),
      max_message: maxMessage,
      features: ['resume', 'deliver'],
      sdk: SDK,
      ...(from === undefined ? {} : { from })
    };
    if (this.isResumable) message.resume = { ...this.#identity, received: this.#received };
    this.#isOpen = false;
    this.#lastSent = this.#lastReceived = now;
    this.#output = [JSON.stringify(message)];
  }

  /** Handles the loss of the socket; what is sent from now on is kept for the next one. */
  disconnect() {
    this.#isOpen = false;
    this.#output = [];
  }

  /** Gives the session up, because the server has: the next one is new. */
  forget() {
    this.#identity = null;
  }

  // -- sending -----------------------------------------------------------------------------------

  /**
   * Answers a request with `{result}` or `{error}`, once. An answer that cannot be sent becomes an
   * error. Lone surrogates in an error are replaced, so that it can be sent. Returns false if nobody
   * waits: the session is over, or the request was answered.
   */
  respond(request, outcome) {
    if (request.session !== this.#number || !this.#inFlight.delete(request.id)) return false;
    const envelope = { type: 'response', id: request.id };
    // JSON leaves out `undefined`, and an answer must have a result.
    const result = 'error' in outcome ? outcome : { result: outcome.result ?? null };
    try {
      this.#send({ ...envelope, ...result }, { isMended: 'error' in result });
    } catch (thrown) {
      const why = String(errorToWire(thrown).message).slice(0, MAX_COMPLAINT_CHARS);
      this.#send({ ...envelope, error: complaint(result.error, why) }, { isMended: true });
    }
    return true;
  }

  /** Calls an action; returns the id of the call. Throws `MessageTooLarge` or `TypeError`. */
  call(payload, parent, timeoutMs) {
    const id = `c${this.#numCalls + 1}`;
    const message = { type: 'call', id, payload, timeout_ms: Math.max(1, Math.ceil(timeoutMs)) };
    this.#send(parent === undefined ? message : { ...message, parent });
    this.#numCalls += 1;
    return id;
  }

  /** Tells the server that nobody waits for a call's reply any more. */
  cancel(callId) {
    this.#send({ type: 'cancel', id: callId });
  }

  /** Tells the server that a delivery is still being worked on: its limit starts anew. */
  progress(request) {
    if (request.session === this.#number && this.#inFlight.has(request.id)) {
      this.#send({ type: 'progress', id: request.id });
    }
  }

  /** Changes how many requests are accepted at once; 0 pauses. */
  setWindow(size) {
    this.#window = size;
    if (this.#isOpen) this.#send({ type: 'window', size });
  }

  /** Asks the server to send no new requests. */
  drain(reason, limitMs) {
    this.#send({ type: 'drain', reason, drain_ms: limitMs });
  }

  #send(message, options) {
    const text = write({ ...message, seq: this.#sent + 1 }, options);
    const numBytes = Buffer.byteLength(text);
    const limit = Math.min(this.#limits.maxMessage, this.#hello.maxMessage);
    if (numBytes + ENVELOPE_BYTES > limit) {
      const what = message.type === 'response' ? 'an answer' : 'a message';
      // The server sends back the smaller of the two limits.
      const whose = limit < this.#hello.maxMessage ? 'server' : 'plugin';
      throw new MessageTooLarge(numBytes, limit, what, whose);
    }
    this.#sent += 1;
    // Kept without the closing brace: the acknowledgement is added when it is written.
    const kept = { seq: this.#sent, body: text.slice(0, -1), numBytes };
    this.#keep(kept);
    if (this.#isOpen) this.#output.push(this.#finish(kept));
  }

  #finish(kept) {
    this.#unackedMessages = this.#unackedBytes = 0;
    return `${kept.body},"ack":${this.#received}}`;
  }

  #sendUnnumbered(type) {
    this.#unackedMessages = this.#unackedBytes = 0;
    this.#output.push(JSON.stringify({ type, ack: this.#received }));
  }

  #keep(kept) {
    this.#kept.push(kept);
    this.#keptBytes += kept.numBytes;
    while (this.#kept.length > MAX_KEPT_MESSAGES || this.#keptBytes > MAX_KEPT_BYTES) {
      this.#forgotten = this.#dropOldest().seq;
    }
  }

  #dropOldest() {
    const oldest = this.#kept.shift();
    this.#keptBytes -= oldest.numBytes;
    return oldest;
  }

  #acknowledge(seq) {
    if (seq > this.#sent) throw new ProtocolError(`${seq} acknowledged, only ${this.#sent} sent`);
    this.#acknowledged = Math.max(this.#acknowledged, seq);
    while (this.#kept.length > 0 && this.#kept[0].seq <= seq) this.#dropOldest();
  }

  /** Returns the texts to write to the socket, in order. */
  takeOutput(now) {
    const output = this.#output;
    this.#output = [];
    if (output.length > 0) this.#lastSent = now;
    return output;
  }

  /** Sends a ping if nothing was sent for long; returns false when the server seems dead. */
  tick(now) {
    if (this.#isOpen && now - this.#lastSent >= this.#limits.heartbeatMs) {
      this.#sendUnnumbered('ping');
    }
    return now - this.#lastReceived < 3 * this.#limits.heartbeatMs;
  }

  // -- receiving ---------------------------------------------------------------------------------

  /**
   * Takes one text from the server; returns the event that follows from it, or null. Throws
   * `ProtocolError` for what the server should never send.
   */
  receive(text, now) {
    this.#lastReceived = now;
    const message = parse(text);
    if (!this.#isOpen) {
      if (message.type !== 'welcome') throw new ProtocolError(`${message.type} before welcome`);
      return this.#welcome(message);
    }
    if (Number.isInteger(message.ack)) this.#acknowledge(message.ack);
    if (message.type === 'ping') this.#sendUnnumbered('pong');
    if (message.type === 'ping' || message.type === 'pong') return null;
    if (!this.#isNew(message)) return null;
    const event = this.#read(message);
    this.#oweAcknowledgement(Buffer.byteLength(text));
    return event;
  }

  #isNew({ type, seq }) {
    if (seq === undefined) {
      if (readers.has(type)) throw new ProtocolError(`${type} without a number`);
      return true;
    }
    if (!Number.isInteger(seq) || seq > this.#received + 1) {
      throw new ProtocolError(`a gap: ${seq} arrived after ${this.#received}`);
    }
    if (seq <= this.#received) return false;
    this.#received = seq;
    return true;
  }

  #read(message) {
    const reader = readers.get(message.type);
    if (reader === undefined) return { type: 'note', text: `unknown message type ${message.type}` };
    if (message.type !== 'request') return reader(message);
    const request = requestFromWire(message, this.#number);
    if (this.#inFlight.has(request.id)) throw new ProtocolError(`a second request ${request.id}`);
    this.#inFlight.set(request.id, request);
    return { type: 'request', request };
  }

  #oweAcknowledgement(numBytes) {
    this.#unackedMessages += 1;
    this.#unackedBytes += numBytes;
    if (this.#unackedMessages >= ACK_MESSAGES || this.#unackedBytes >= ACK_BYTES) {
      this.#sendUnnumbered('ping');
    }
  }

  #welcome(message) {
    if (!(message.heartbeat_ms > 0)) throw new ProtocolError('welcome without a heartbeat_ms');
    this.#limits = {
      heartbeatMs: message.heartbeat_ms,
      resumeMs: message.resume_ms ?? 0,
      maxMessage: message.max_message ?? MAX_MESSAGE,
      maxCalls: message.max_calls ?? MAX_CALLS
    };
    const hadSession = this.#sent > 0 || this.#received > 0;
    const isResumed = message.resumed === true;
    if (isResumed) {
      this.#resume(message.received);
    } else {
      this.#number += 1;
      this.#begin();
      const canResume = message.features?.includes('resume') === true;
      this.#identity = canResume ? { session: message.session, secret: message.secret } : null;
    }
    this.#isOpen = true;
    if (this.#window === 0) this.setWindow(0);
    return { type: 'welcome', isResumed, isLost: hadSession && !isResumed };
  }

  #resume(received) {
    if (!this.isResumable || !Number.isInteger(received) || received < this.#forgotten) {
      throw new ProtocolError('the server resumed a session that cannot be resumed');
    }
    this.#acknowledge(received);
    this.#output.push(...this.#kept.map((kept) => this.#finish(kept)));
  }
}

/**
 * Returns what is answered when an answer cannot be sent. An error keeps its code and message; its
 * info is replaced by the reason, for developers.
 */
function complaint(error, why) {
  if (Number.isSafeInteger(error?.code)) {
    const message = String(error.message).slice(0, MAX_COMPLAINT_CHARS);
    return { code: error.code, message, info: { trace: `its info cannot be sent: ${why}` } };
  }
  // The client did nothing wrong, so the code must not say so.
  return { code: ErrorCodes.UnexpectedError, message: why };
}

function parse(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch (error) {
    throw new ProtocolError(`not JSON: ${error.message}`);
  }
  if (typeof message !== 'object' || message === null || typeof message.type !== 'string') {
    throw new ProtocolError('not an object with a type');
  }
  return message;
}
