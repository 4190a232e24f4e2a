/**
 * Runs a plugin in tests, without a server.
 *
 *     const tester = new PluginTester(plugin);
 *     tester.onAction('record:query', [new Record('note/1', { title: 'hi' })]);
 *     assert.deepEqual(await tester.lambda('note:titles', [], { userId: 'u1' }), ['hi']);
 *     const saved = await tester.beforeSave(new Record('note/2', { title: ' trim me ' }));
 *
 * Everything is converted to JSON and back, as on its way to a server. The calls that the plugin
 * makes are kept in `calls`, and the test sets their answers.
 */

import { setTimeout as sleep } from 'node:timers/promises';

import { ApiError, CallTimeout, ErrorCodes, errorToWire, SkytrailError } from './errors.js';
import { HandlerRequest, SkygearResponse } from './http.js';
import { write } from './json.js';
import { Record } from './record.js';
import { currentRequest, Running } from './running.js';
import { decode, encode } from './values.js';
import { CALL_TIMEOUT_MS } from './worker.js';

const STARTING = ['after-config', 'before-plugins-ready', 'after-plugins-ready', 'server-ready'];

/** Stands in for the server. See the module's description. */
export class PluginTester {
  /** The payloads of the calls that the plugin made, with decoded values. */
  calls = [];
  /** What the plugin published: `{channels, data}`. */
  published = [];
  /** How often the plugin reported progress on a delivery. */
  numProgress = 0;
  #plugin;
  #answers = new Map();
  #numRequests = 0;

  constructor(plugin) {
    this.#plugin = plugin;
    plugin.connectTo(this);
  }

  // -- the server that the plugin sees -----------------------------------------------------------

  /**
   * Sets the answer to an action: a result, an error, or a function of the payload that returns or
   * throws either. Records can be used where the server would send them.
   */
  onAction(action, answer) {
    this.#answers.set(action, answer);
  }

  /** Answers a call of the plugin, which ends with its request, its time limit, or its signal. */
  async call(payload, { timeoutMs = CALL_TIMEOUT_MS, signal } = {}) {
    const running = currentRequest();
    const signals = [running?.signal, signal].filter((it) => it !== undefined);
    for (const it of signals) it.throwIfAborted();
    const seen = decode(travel(payload));
    this.calls.push(seen);
    const ends = new AbortController();
    const late = sleep(timeoutMs, undefined, { signal: ends.signal }).then(() => {
      throw new CallTimeout();
    });
    const limits = [late, ...signals.map((it) => aborted(it, ends.signal))];
    try {
      return await Promise.race([this.#reply(seen), ...limits]);
    } finally {
      ends.abort();
    }
  }

  async #reply(seen) {
    try {
      return { status: 200, body: { result: travel(withRecords(await this.#answer(seen))) } };
    } catch (error) {
      return { status: error.status ?? 400, body: { error: travelError(error) } };
    }
  }

  async #answer(seen) {
    const { action, channels, data } = seen;
    if (action === 'pubsub:publish') {
      this.published.push({ channels, data });
      return null;
    }
    if (!this.#answers.has(action)) {
      const message = `the test has no answer to ${action}`;
      throw new ApiError(message, ErrorCodes.UndefinedOperation, null, 404);
    }
    const answer = this.#answers.get(action);
    const result = typeof answer === 'function' ? await answer(seen) : answer;
    if (result instanceof Error) throw result;
    return result;
  }

  // -- what the server asks ----------------------------------------------------------------------

  /** Sends the events of a start; returns the points as the server receives them. */
  async start(config = { app: { name: 'test' } }) {
    await this.event('before-config', { config });
    const registration = await this.event('init', { config });
    for (const name of STARTING) await this.event(name, { config });
    return registration;
  }

  event(name, param = {}) {
    return this.ask('event', name, encode(param));
  }

  /** Calls a lambda; `args` is a list or an object. */
  async lambda(name, args = undefined, options = {}) {
    const param = args === undefined ? { action: name } : { action: name, args: encode(args) };
    return decode(await this.ask('op', name, param, options)) ?? null;
  }

  /** Sends an HTTP request to the handler of its path; returns a `SkygearResponse`. */
  async request(method, url, { body = '', headers = {}, ...options } = {}) {
    const { pathname, search } = new URL(url, 'http://test');
    const path = decodedPath(pathname);
    const queryString = search.slice(1);
    const request = new HandlerRequest({ method, path, queryString, headers, body });
    const wire = await this.ask('handler', this.#handler(method, path), request.toWire(), options);
    return SkygearResponse.fromWire(wire);
  }

  /** Finds a handler as the server does: the exact path, or else the longest prefix of it. */
  #handler(method, path) {
    const fitting = [...this.#plugin.points.handlers.keys()]
      .map((key) => key.split(' '))
      .map(([its, name]) => ({ its, name, at: `/${name.replaceAll(':', '/').replace(/^\/+/, '')}` }))
      .filter(({ its, at }) => its === method && (at === path || isBelow(path, at)))
      .sort((one, other) => other.at.length - one.at.length);
    if (fitting.length > 0) return fitting[0].name;
    const message = `no handler for ${method} ${path}`;
    throw new ApiError(message, ErrorCodes.UndefinedOperation, null, 404);
  }

  /** Runs the hooks that run before a save; returns what would be stored. */
  beforeSave(record, original = null, options = {}) {
    return this.#hooks('beforeSave', record, original, options);
  }

  /** Runs the hooks that run after a save. */
  async afterSave(record, original = null, options = {}) {
    await this.#hooks('afterSave', record, original, { delivery: this.#delivery(), ...options });
  }

  /** Runs the hooks that run before a deletion. */
  async beforeDelete(record, options = {}) {
    await this.#hooks('beforeDelete', record, null, options);
  }

  /** Runs the hooks that run after a deletion. */
  async afterDelete(record, options = {}) {
    await this.#hooks('afterDelete', record, null, { delivery: this.#delivery(), ...options });
  }

  /** Runs a timer now. */
  async runTimer(name) {
    await this.ask('timer', name, null);
  }

  /** Asks an auth provider who a user is. */
  async login(id, authData) {
    return decode(await this.ask('provider', id, { action: 'login', auth_data: encode(authData) }));
  }

  /**
   * Sends any request; returns its result in JSON form, or throws the `ApiError` that the server
   * would receive. Options: `userId`, `context`, `timeoutMs`, `delivery`.
   */
  async ask(kind, name, param, { userId, context = {}, timeoutMs = 30_000, delivery = null } = {}) {
    this.#numRequests += 1;
    const user = userId === undefined ? {} : { user_id: userId, access_key_type: 'client' };
    const request = {
      id: `r${this.#numRequests}`,
      kind,
      name,
      param: travel(param),
      context: { ...user, ...context },
      timeoutMs,
      delivery,
      session: 1
    };
    const running = new Running(request, () => (this.numProgress += 1), { isAlone: true });
    this.#plugin.connectTo(this);
    try {
      const ends = aborted(running.signal);
      return travel(await Promise.race([running.run(() => this.#plugin.answer(running)), ends]));
    } catch (thrown) {
      const error = ApiError.fromWire(travelError(thrown));
      error.cause = thrown;
      throw error;
    } finally {
      running.finish();
    }
  }

  #delivery() {
    const position = this.#numRequests + 1;
    return { id: `${position}/test`, position, attempt: 1, at: new Date(), catchingUp: false };
  }

  async #hooks(trigger, record, original, options) {
    let wire = recordToWire(record);
    const before = original === null ? null : recordToWire(original);
    for (const [name, hook] of this.#plugin.points.hooks) {
      if (hook.trigger !== trigger || hook.type !== record.recordType) continue;
      const answer = await this.ask('hook', name, { record: wire, original: before }, options);
      if (trigger === 'beforeSave') wire = answer;
    }
    return Record.fromWire(wire);
  }
}

/** Rejects with a signal's reason when it aborts, until another does. */
function aborted(signal, until) {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true, signal: until });
  });
}

/** Decodes a path as the server does: what is not UTF-8 becomes U+FFFD, what is no escape stays. */
const decodedPath = (path) =>
  path.replace(/(%[0-9a-f]{2})+/gi, (bytes) => Buffer.from(bytes.replaceAll('%', ''), 'hex').toString());

const isBelow = (path, at) => at.endsWith('/') && path.startsWith(at);

/** Converts a value to JSON and back, as if it were sent. */
const travel = (value) => (value === undefined ? null : JSON.parse(write(value)));

const travelError = (thrown) => JSON.parse(write(errorToWire(thrown), { isMended: true }));

const recordToWire = (record) => ({ _type: 'record', _access: null, ...record.toWire() });

/** Encodes a result; records and errors become their slots. */
function withRecords(value) {
  if (value instanceof Record) return recordToWire(value);
  if (value instanceof SkytrailError) return { _type: 'error', ...value.toJSON() };
  if (Array.isArray(value)) return value.map(withRecords);
  return encode(value);
}
