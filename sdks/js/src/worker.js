/**
 * A worker: keeps the connection to the server, and runs the requests that arrive over it.
 *
 * The session (`session`) knows what the messages mean; the service (`Plugin`) answers requests.
 * Functions run concurrently, and nothing here waits for them. So pings are answered and nested
 * requests are accepted, whatever the functions do.
 */

import { Backoff, isFinal, isKeyRefused, isSessionLost } from './backoff.js';
import { Calls, Gate, Turns } from './calls.js';
import {
  ApiError,
  CallTimeout,
  ConnectionLost,
  describe,
  ErrorCodes,
  errorToWire,
  isSkytrailError,
  Refused
} from './errors.js';
import { ProtocolError } from './messages.js';
import { currentRequest, Running } from './running.js';
import { Session } from './session.js';
import { openSocket, shownUrl } from './socket.js';

/** How long a call waits, unless it says otherwise. */
export const CALL_TIMEOUT_MS = 60_000;
/** How much longer than its drain limit the server may take to close. */
const CLOSE_GRACE_MS = 2000;
const TICK_MS = 1000;

/** A worker; see the module's description. `options` are the plugin's complete settings. */
export class Worker {
  #service;
  #options;
  #session;
  #open;
  #log;
  #backoff = new Backoff();
  #calls = new Calls();
  #turns;
  /** The levels of the calls under way, by id. */
  #levels = new Map();
  #running = new Map();
  #opened = new Gate();
  #socket = null;
  #ticker = null;
  #problems = [];
  #state = 'connecting';
  #isStopping = false;
  /** The session in which the server was asked to drain. */
  #drainedSession = null;
  /** Whether the server drains this worker for good, without wanting it to reconnect. */
  #isReplaced = false;
  #isDone = false;
  /** Whether the server has accepted the position where deliveries start. */
  #hasStarted = false;
  #wake = () => {};

  constructor(service, options, open = openSocket) {
    const { name: plugin, worker, generation, window, maxMessage } = options;
    this.#service = service;
    this.#options = options;
    this.#log = options.log;
    this.#open = open;
    this.#session = new Session({ plugin, worker, generation, window, maxMessage });
    this.#turns = new Turns(this.#session.limits.maxCalls);
  }

  /** `connecting`, `registering`, `registered`, or what the server reports, such as `ready`. */
  get state() {
    return this.#state;
  }

  /** Serves until `stop`; reconnects whenever the connection breaks. Throws `Refused`. */
  async serve() {
    try {
      while (!this.#isDone) {
        const ending = await this.#connect();
        if (this.#isDone) break;
        this.#refuse(ending);
        if (isSessionLost(ending)) this.#session.forget();
        const pause = this.#backoff.pauseMs(ending);
        const next = `next try in ${Math.round(pause)} ms`;
        if (isKeyRefused(ending)) {
          this.#log.error(`the server refuses MASTER_KEY: ${ending.reason}; ${next}`);
        } else {
          this.#log.warn(`no connection: ${ending.reason}; ${next}`);
        }
        await this.#pause(pause);
      }
    } finally {
      this.#abandon('the worker has ended');
    }
  }

  #refuse({ closeCode, reason }) {
    if (!isFinal({ closeCode })) return;
    const problems = this.#problems.map(({ list, name, message }) => `${list} ${name}: ${message}`);
    const text = [`${closeCode} ${reason}`, ...problems].join('\n');
    throw new Refused(text, closeCode, this.#problems);
  }

  /** Runs one connection; returns how it ended. */
  async #connect() {
    let from;
    try {
      from = await this.#from();
    } catch (thrown) {
      return { reason: `cannot tell where deliveries should start: ${describe(thrown)}` };
    }
    return this.#talk(from);
  }

  /** Returns the position that deliveries start after, if the plugin decides that. */
  async #from() {
    const { from } = this.#options;
    if (typeof from === 'function') return from();
    // A number was right when the process started; later the server knows better.
    return this.#hasStarted ? undefined : from;
  }

  #talk(from) {
    return new Promise((resolve) => {
      if (this.#isDone) return resolve({ reason: 'stopped' });
      const onEnd = (ending) => {
        clearInterval(this.#ticker);
        this.#socket = null;
        this.#session.disconnect();
        if (this.#isReplaced && isFinal(ending)) this.#finish();
        const isLeaving = this.#isStopping || this.#isReplaced;
        if (isLeaving && this.#hasNothingLeft()) this.#finish();
        resolve(ending);
      };
      const onOpen = () => {
        this.#session.connect(performance.now(), from);
        this.#tickEvery(TICK_MS);
        this.#flush();
      };
      const onText = (text) => this.#receive(text);
      this.#socket = this.#open(this.#options, { onOpen, onText, onEnd });
    });
  }

  #tickEvery(ms) {
    clearInterval(this.#ticker);
    this.#ticker = setInterval(() => {
      if (this.#session.tick(performance.now())) return this.#flush();
      this.#log.warn('the server is silent');
      this.#socket?.terminate();
    }, ms);
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => (clearTimeout(timer), resolve());
    });
  }

  #flush() {
    if (this.#socket === null) return;
    for (const text of this.#session.takeOutput(performance.now())) this.#socket.send(text);
  }

  // -- what the server says ----------------------------------------------------------------------

  #receive(text) {
    try {
      const event = this.#session.receive(text, performance.now());
      if (event !== null) this.#take(event);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#log.error(`the server violated the protocol: ${error.message}`);
      this.#session.forget();
      this.#socket?.close(4002, error.message);
    }
    this.#flush();
  }

  #take(event) {
    switch (event.type) {
      case 'welcome':
        return this.#welcomed(event);
      case 'request':
        return void this.#start(event.request);
      case 'cancel':
        return this.#running.get(event.id)?.cancel(event.reason);
      case 'reply':
        return this.#calls.take(event.id, event.reply);
      case 'registered':
        return this.#registered(event);
      case 'state':
        this.#state = event.state;
        this.#hasStarted ||= event.state === 'ready';
        return this.#log.info(`plugin ${this.#options.name} is ${event.state}`);
      case 'drain':
        this.#isReplaced = !event.reconnect;
        this.#backoff.numWorkers = event.workers;
        return this.#log.info(`the server is draining this worker: ${event.reason}`);
      case 'drained':
        if (this.#isStopping || this.#isReplaced) this.#finish();
        return undefined;
      default:
        return this.#log.warn(event.text);
    }
  }

  #welcomed({ isResumed, isLost }) {
    this.#backoff.reset();
    if (isLost) this.#abandon('connection-lost');
    if (!isResumed) this.#state = 'registering';
    // It reconnected for the session that it had, and for nothing else.
    if (!isResumed && this.#isReplaced) this.#finish();
    this.#log.info(`${isResumed ? 'resumed at' : 'connected to'} ${shownUrl(this.#options.endpoint)}`);
    this.#tickEvery(Math.min(TICK_MS, this.#session.limits.heartbeatMs / 4));
    if (this.#isStopping && this.#drainedSession !== this.#session.number) this.#drain();
    this.#opened.open();
    this.#turns.max = this.#session.limits.maxCalls;
  }

  #registered({ isOk, points, problems }) {
    this.#problems = problems;
    if (isOk) this.#state = 'registered';
    const counts = Object.entries(points).map(([kind, number]) => `${kind}: ${number}`);
    if (isOk) this.#log.info(`registered ${counts.join(', ')}`);
    for (const { list, name, message } of problems) {
      this.#log.error(`refused: ${list} ${name}: ${message}`);
    }
  }

  /** Ends everything of a session that is over: its requests and all calls. */
  #abandon(reason) {
    for (const running of this.#running.values()) running.cancel(reason);
    this.#running.clear();
    this.#calls.fail();
  }

  // -- requests ----------------------------------------------------------------------------------

  async #start(request) {
    const level = (this.#levels.get(request.parent) ?? 0) + 1;
    const sendProgress = () => {
      this.#session.progress(request);
      this.#flush();
    };
    const running = new Running(request, sendProgress, { level });
    this.#running.set(request.id, running);
    const outcome = await running.run(() => this.#outcome(running));
    running.finish();
    if (this.#running.get(request.id) === running) this.#running.delete(request.id);
    this.#session.respond(request, outcome);
    this.#flush();
  }

  async #outcome(running) {
    const { kind, name } = running.request;
    try {
      return { result: await this.#service.answer(running) };
    } catch (thrown) {
      const error = errorToWire(thrown);
      if (isSkytrailError(thrown)) return { error };
      // What a function throws because it was told to stop is not a failure of its own.
      if (running.signal.aborted) return { error: errorToWire(running.signal.reason) };
      this.#logFailure(`${kind} ${name} failed: ${error.info?.trace ?? error.message}`);
      return { error };
    }
  }

  /** Logs a failure. The log may be the plugin's own; if it fails, the client is answered anyway. */
  #logFailure(text) {
    try {
      this.#log.error(text);
    } catch (thrown) {
      process.stderr.write(`${text}\nand the log failed: ${errorToWire(thrown).message}\n`);
    }
  }

  /** Changes how many requests are accepted at once; 0 pauses. */
  setWindow(size) {
    this.#session.setWindow(size);
    this.#flush();
  }

  // -- calls -------------------------------------------------------------------------------------

  /**
   * Calls an action of the server, with the rights of the master key. Within a request the call is
   * its child: it ends with the request, and requests that it causes are sent to this worker. It waits
   * while as many calls are in flight as the server allows.
   */
  async call(payload, { timeoutMs = CALL_TIMEOUT_MS, signal } = {}) {
    const current = currentRequest();
    const running = current?.isFinished === false ? current : null;
    const signals = [running?.signal, signal].filter((it) => it !== undefined);
    for (const it of signals) it.throwIfAborted();
    const until = performance.now() + Math.min(timeoutMs, running?.msLeft ?? Infinity);
    const msLeft = () => Math.max(0, until - performance.now());
    const level = running?.level ?? 0;
    if (!this.#turns.tryTake(level)) await this.#turn(level, msLeft(), signals);
    try {
      return await this.#send(payload, running, msLeft, signals);
    } finally {
      this.#turns.end();
    }
  }

  async #turn(level, ms, signals) {
    if (!(await this.#turns.wait(level, ms, signals))) {
      const { max } = this.#turns;
      throw new CallTimeout(`too many calls at once: ${max}, PLUGIN_MAX_CALLS; nothing was sent`);
    }
  }

  async #send(payload, running, msLeft, signals) {
    // It may have waited for its turn.
    for (const it of signals) it.throwIfAborted();
    if (running?.isFinished) {
      const message = 'the request that the call belongs to is over; nothing was sent';
      throw new ApiError(message, ErrorCodes.UnexpectedError, null, 499);
    }
    // A session that lost its socket and can be resumed is as good as an open one.
    if (!this.#session.isOpen && !this.#session.isResumable) {
      const isOpen = !this.#isDone && (await this.#opened.wait(msLeft(), signals));
      if (!isOpen) throw new ConnectionLost('not connected; nothing was sent');
    }
    // The server does not know requests of a session that is over.
    const isChild = running?.request.session === this.#session.number;
    const id = this.#session.call(payload, isChild ? running.request.id : undefined, msLeft());
    this.#levels.set(id, running?.level ?? 0);
    this.#flush();
    const giveUp = () => {
      this.#session.cancel(id);
      this.#flush();
    };
    try {
      return await this.#calls.wait(id, msLeft(), signals, giveUp);
    } finally {
      this.#levels.delete(id);
    }
  }

  // -- stopping ----------------------------------------------------------------------------------

  /** Takes no new requests, finishes those that run, then ends `serve`. */
  stop() {
    if (this.#isStopping) return;
    this.#isStopping = true;
    this.#log.info(`stopping; ${this.#running.size} requests in flight`);
    if (this.#session.isOpen) this.#drain();
    else if (this.#hasNothingLeft()) this.#finish();
    // The server enforces the limit; this is for when it does not, or is away.
    setTimeout(() => this.#finish(), this.#options.drainMs + CLOSE_GRACE_MS).unref();
  }

  #hasNothingLeft() {
    return this.#running.size === 0 && this.#session.isSettled;
  }

  #drain() {
    this.#drainedSession = this.#session.number;
    this.#session.drain('stopping', this.#options.drainMs);
    this.#flush();
  }

  #finish() {
    this.#isDone = true;
    this.#socket?.close(1000, 'drained');
    this.#wake();
  }
}
