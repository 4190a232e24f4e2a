/** A plugin: its functions, and what is needed to run it. */

import { hostname } from 'node:os';

import { Api } from './api.js';
import { answer } from './dispatch.js';
import { Cancelled, Refused } from './errors.js';
import { checkedLevel, makeLog } from './log.js';
import { Points } from './points.js';
import { currentRequest } from './running.js';
import { MAX_MESSAGE } from './session.js';
import { HANDLER, StaticAssets } from './static.js';
import { Worker } from './worker.js';

const DRAIN_MS = 30_000;
/** How long a program may take to clean up after `run`. */
const CLEANUP_MS = 3000;
/** Marks plugins, so that every copy of this package recognizes those of the others. */
const IS_PLUGIN = Symbol.for('skytrail-plugin.isPlugin');
/** Likewise, whether one of them has run in this process. */
const HAS_RUN = Symbol.for('skytrail-plugin.hasRun');
/** What the server's own setting may not go below. */
const MIN_MESSAGE = 1024;

/**
 * A plugin: what it does, and the server that it does it for. Settings that are not given are read
 * from the environment: `PLUGIN_NAME`, `SKYGEAR_ENDPOINT`, `MASTER_KEY`, `PLUGIN_WINDOW`,
 * `PLUGIN_GENERATION`, `PLUGIN_MAX_MESSAGE`.
 *
 * Functions can be async. The last argument of each is `{context, signal, api, delivery, progress}`.
 */
export class Plugin {
  [IS_PLUGIN] = true;
  points = new Points();
  #settings;
  #assets = new StaticAssets(this.points.assets);
  #line = { caller: null, log: makeLog() };
  #worker = null;

  constructor(name = undefined, settings = {}) {
    this.#settings = { ...settings, ...(name === undefined ? {} : { name }) };
    this.api = new Api(this.#line);
  }

  // -- what the plugin offers --------------------------------------------------------------------

  /** A lambda, an action of the plugin: `fn(param, options)`; `param.args` is what the client sent. */
  op(name, fn, options) {
    this.points.addOp(name, fn, options);
  }

  /** Answers HTTP requests to a path, and to all below if it ends in `/`: `fn(request, options)`. */
  handler(path, fn, options) {
    this.points.addHandler(path, fn, options);
  }

  /** Can change a record before it is saved, or reject it: `fn(record, original, options)`. */
  beforeSave(type, fn, options) {
    this.points.addHook('beforeSave', type, fn, options);
  }

  /** Receives every saved record at least once, also after an absence. */
  afterSave(type, fn, options) {
    this.points.addHook('afterSave', type, fn, options);
  }

  /** Can reject a deletion. */
  beforeDelete(type, fn, options) {
    this.points.addHook('beforeDelete', type, fn, options);
  }

  /** Receives every deleted record, as `afterSave` receives saved ones. */
  afterDelete(type, fn, options) {
    this.points.addHook('afterDelete', type, fn, options);
  }

  /** Runs by a spec (`@hourly`, `0 30 8 * * MON-FRI`), or at an interval in seconds: `fn(options)`. */
  every(spec, fn, options) {
    this.points.addTimer(spec, fn, options);
  }

  /** Registers what authenticates users: an object, or a class, with `login(param, options)`. */
  provides(kind, id, provider, options) {
    if (kind !== 'auth') throw new TypeError(`providers are of kind auth, not ${kind}`);
    this.points.addProvider(id, provider, options);
  }

  /** Receives an event: `fn(param, options)`. */
  event(name, fn, options) {
    this.points.addEvent(name, fn, options);
  }

  /** Serves the files of a folder, which `fn` returns, below `/static/<prefix>/`. */
  staticAsset(prefix, fn) {
    if (this.#assets.folders.size === 0) {
      this.handler(HANDLER, (request) => this.#assets.serve(request), { method: 'GET' });
    }
    this.#assets.add(prefix, fn);
  }

  // -- running -----------------------------------------------------------------------------------

  /** The request that the running function answers, with its `context`; null outside a request. */
  get current() {
    const running = currentRequest();
    return running === null ? null : this.#optionsFor(running);
  }

  /** `connecting`, `registering`, `registered`, `initialized`, `ready`; `stopped` if not running. */
  get state() {
    return this.#worker?.state ?? 'stopped';
  }

  /** Answers a request; for workers and tests. */
  answer(running) {
    return answer(this.points, running.request, this.#optionsFor(running));
  }

  #optionsFor(running) {
    const { context, delivery } = running.request;
    const { signal } = running;
    return { context, delivery, signal, api: this.api, progress: () => running.progress() };
  }

  /** Sets where calls of `api` go; for workers and tests. */
  connectTo(caller) {
    this.#line.caller = caller;
  }

  /** Returns the settings of a worker: the given ones, then those of the environment. */
  settings(overrides = {}) {
    const given = { ...this.#settings, ...overrides };
    const { env } = process;
    const name = given.name || env.PLUGIN_NAME;
    if (!name) throw new TypeError("the plugin has no name: new Plugin('NAME'), or PLUGIN_NAME");
    const number = (member, variable, otherwise, least) => {
      const [source, value] = given[member] == null ? [variable, env[variable]] : [member, given[member]];
      return wholeNumber(source, value === undefined || value === '' ? otherwise : value, least);
    };
    return {
      name,
      endpoint: given.endpoint || env.SKYGEAR_ENDPOINT || 'http://127.0.0.1:3000',
      masterKey: given.masterKey || env.MASTER_KEY || '',
      // A worker that takes nothing would never answer; `setWindow(0)` is for pauses.
      window: number('window', 'PLUGIN_WINDOW', 16, 1),
      generation: number('generation', 'PLUGIN_GENERATION', 0, 0),
      maxMessage: number('maxMessage', 'PLUGIN_MAX_MESSAGE', MAX_MESSAGE, MIN_MESSAGE),
      drainMs: given.drainMs ?? DRAIN_MS,
      from: given.from,
      worker: `${hostname()}:${process.pid}`,
      log: given.log ?? makeLog(checkedLevel(env.LOG_LEVEL))
    };
  }

  /** Serves until `stop`; reconnects whenever the connection breaks. Throws `Refused`. */
  async serve(overrides = {}) {
    const settings = this.settings(overrides);
    this.#worker = new Worker(this, settings);
    this.#line.log = settings.log;
    this.connectTo(this.#worker);
    try {
      await this.#worker.serve();
    } finally {
      this.connectTo(null);
      this.#worker = null;
    }
  }

  /** Finishes what is in flight, then ends `serve`. */
  stop() {
    this.#worker?.stop();
  }

  /** Changes how many requests are accepted at once; 0 pauses. */
  setWindow(size) {
    this.#worker?.setWindow(size);
  }

  /**
   * Serves until SIGTERM or SIGINT, then finishes what is in flight. A second signal ends the process
   * at once. If the server rejects the plugin, the exit code is 1.
   *
   * It is for programs that are a plugin and nothing else. When it has returned, they can clean up for
   * some seconds; then the process exits, whatever is still open. Others call `serve` and `stop`.
   */
  async run(overrides = {}) {
    globalThis[HAS_RUN] = true;
    const { log } = this.settings(overrides);
    let numSignals = 0;
    const onSignal = () => {
      numSignals += 1;
      if (numSignals > 1) process.exit(130);
      this.stop();
    };
    const onRejection = (reason) => rejected(reason, log);
    for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, onSignal);
    process.on('unhandledRejection', onRejection);
    try {
      await this.serve({ ...overrides, log });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      log.error(`the server refuses this plugin: ${error.message}`);
      process.exitCode = 1;
    } finally {
      for (const signal of ['SIGTERM', 'SIGINT']) process.off(signal, onSignal);
      process.off('unhandledRejection', onRejection);
    }
    // The timer does not keep a process that has nothing else to do.
    setTimeout(() => process.exit(), CLEANUP_MS).unref();
  }
}

/**
 * Handles a rejected promise that nothing awaits. It ends the process, unless the promise belongs to a
 * function whose request was cancelled before it awaited the promise: any client can cause that.
 */
function rejected(reason, log) {
  if (reason instanceof Cancelled || reason?.cause instanceof Cancelled) {
    log.debug(`nothing awaits a promise that was ${(reason.cause ?? reason).message}`);
  } else if (process.listenerCount('unhandledRejection') === 1) {
    throw reason;
  }
}

function wholeNumber(name, given, least) {
  const value = Number(given);
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new TypeError(`${name} should be a whole number of at least ${least}, not ${given}`);
}

/** Returns whether a value is a plugin, including one of another copy of this package. */
export const isPlugin = (value) => value?.[IS_PLUGIN] === true;

/** Whether a plugin has run in this process, also one of another copy of this package. */
export const hasRun = () => globalThis[HAS_RUN] === true;
