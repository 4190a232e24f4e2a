/**
 * The server's actions, for plugins: records, lambdas, messages, anything by name.
 *
 * Calls use the plugin's own socket and have the rights of the master key, unless `withRightsOf`
 * leaves them only those of a user. Within a request they belong to it: they end with it, and the
 * requests that they cause are sent to the same worker.
 */

import { Answer } from './calls.js';
import { ApiError, Cancelled, ConnectionLost } from './errors.js';
import { Version, writeMoment } from './history.js';
import { Query } from './query.js';
import { Record } from './record.js';
import { decode, encode, Reference } from './values.js';

const PUBLIC = '_public';

/**
 * The API; see the module's description. `asUser` returns the same in a user's name, `withRightsOf`
 * with only a user's rights.
 */
export class Api {
  #line;
  #userId;
  #members;

  /**
   * `line.caller` takes the calls: a worker, or a test. `line.log` logs errors that nothing awaits.
   * `members` are added to each call.
   */
  constructor(line, userId = null, members = {}) {
    this.#line = line;
    this.#userId = userId;
    this.#members = members;
  }

  get userId() {
    return this.#userId;
  }

  /**
   * Returns an API that acts as a user: what it creates belongs to that user. It still has the rights
   * of the master key, which ignore access lists. Throws `TypeError` without an id, because such calls
   * would silently act in the master key's name.
   */
  asUser(userId) {
    if (!userId) {
      throw new TypeError("asUser needs a user's id; the master key's calls need no asUser");
    }
    return new Api(this.#line, userId, { _user_id: userId });
  }

  /**
   * Returns an API that acts as a user and may do only what that user may. The server answers as it
   * answers the user's own token: it finds and changes only what the user may find and change, and
   * refuses a user who is disabled (127) or does not exist (104). Throws `TypeError` without an id.
   */
  withRightsOf(userId) {
    if (!userId) throw new TypeError("withRightsOf needs a user's id");
    return new Api(this.#line, userId, { _user_id: userId, _rights: 'user' });
  }

  /** Runs an action and returns its whole answer. Throws `ApiError`. */
  async request(action, payload = {}, { timeoutMs, signal } = {}) {
    const { caller } = this.#line;
    if (caller === null) throw new ConnectionLost('the plugin is not running; nothing was sent');
    const body = { ...encode(payload), ...this.#members, _from_plugin: true, action };
    const { status, body: answer } = await caller.call(body, { timeoutMs, signal });
    if (answer?.error != null || status >= 400) throw ApiError.fromWire(answer?.error, status);
    return answer ?? {};
  }

  /** Runs any action by name and returns its result, with decoded values. Throws `ApiError`. */
  async action(name, payload = {}, options = {}) {
    return decode((await this.request(name, payload, options)).result ?? null);
  }

  /** Runs a lambda, of this plugin or another; `args` is a list or an object. */
  async lambda(name, args = undefined, options = {}) {
    return this.action(name, args === undefined ? {} : { args }, options);
  }

  /**
   * Saves a record and returns it as it is stored; or several, and returns a slot for each, with an
   * error for each that failed. With `atomic`, either all are saved or none, and a failure is thrown.
   *
   * Only the fields that a record has are saved, and its access list only if `access` was set or
   * fetched: otherwise a stored record keeps its list, and a new one gets its type's default.
   *
   * With `if`, a `Query` or a predicate in JSON form, a record is saved only if it exists and matches
   * at that moment (`ConstraintViolated` otherwise), with `createOnly` only if it does not exist
   * (`Duplicated` otherwise): of several saves at once that need the same state, one succeeds.
   */
  async save(records, options = {}) {
    const { atomic = false, database = PUBLIC, if: condition, createOnly = false } = options;
    const list = [records].flat();
    const wire = list.map((record) => record.toWire());
    // A record that was built from an id and a few fields says nothing about access.
    const payload = { records: wire, atomic, database_id: database, keep_access: true };
    if (condition != null) payload.if = predicateOf(condition);
    if (createOnly) payload.create_only = true;
    const slots = await this.#slots('record:save', payload);
    return Array.isArray(records) ? slots.map(recordOrError) : only(slots.map(recordOrError));
  }

  /**
   * Fetches a record by its id; or several, and returns a slot for each, with an error for each that
   * failed. With `asOf`, as they were at a moment: a position of the log, or a `Date`.
   */
  async fetch(ids, { database = PUBLIC, asOf } = {}) {
    const payload = { ids: [ids].flat().map(idOf), database_id: database, ...past(asOf) };
    const slots = await this.#slots('record:fetch', payload);
    return Array.isArray(ids) ? slots.map(recordOrError) : only(slots.map(recordOrError));
  }

  /**
   * Finds records: by a `Query`, or by a type with `predicate`, `sort`, … in JSON form. The list has
   * an `overallCount` if the query asked for it. With `asOf`, finds what it would have found then.
   */
  async query(query, { database = PUBLIC, asOf, ...members } = {}) {
    const wire = query instanceof Query ? query.toWire() : { record_type: query };
    const payload = { ...wire, ...members, database_id: database, ...past(asOf) };
    const { result, info } = await this.request('record:query', payload);
    const records = list(result).map((slot) => Record.fromWire(slot));
    return Object.assign(records, { overallCount: info?.count ?? null });
  }

  /**
   * Iterates over a record's versions, newest first, one page at a time. `until` and `after` are
   * moments; `user` and `kinds` filter.
   */
  async *history(id, { until, after, user, kinds, page = 50 } = {}) {
    const wanted = { record: idOf(id), after: writeMoment(after), user, kinds, limit: page };
    let cursor = writeMoment(until);
    do {
      const { result } = await this.request('history:list', { ...wanted, until: cursor });
      for (const version of result.versions) yield Version.fromWire(version);
      cursor = result.next ?? null;
    } while (cursor !== null);
  }

  /** Saves a record as it was at a moment or in a version, as a new version. */
  async restore(id, asOf) {
    const moment = asOf instanceof Version ? asOf.position : writeMoment(asOf);
    const payload = { record: idOf(id), as_of: moment };
    return Record.fromWire((await this.request('history:restore', payload)).result);
  }

  /** Deletes a record; or several, and returns a slot for each: null, or an error. */
  async delete(ids, { atomic = false, database = PUBLIC } = {}) {
    const payload = { ids: [ids].flat().map(idOf), atomic, database_id: database };
    const slots = (await this.#slots('record:delete', payload)).map(errorOf);
    if (Array.isArray(ids)) return slots;
    if (slots[0] !== null) throw slots[0];
    return null;
  }

  /** Publishes to a channel, or to several at once. */
  async publish(channels, data) {
    await this.request('pubsub:publish', { channels: [channels].flat(), data });
  }

  /** Sends a notification to all devices of users, or only to those with a topic. */
  async pushToUsers(users, notification, { topic } = {}) {
    await this.request('push:user', { user_ids: [users].flat(), notification, topic });
  }

  /** Like `pushToUsers`, for devices. Returns the ids of those that exist. */
  async pushToDevices(devices, notification, { topic } = {}) {
    const payload = { device_ids: [devices].flat(), notification, topic };
    const slots = await this.#slots('push:device', payload);
    return slots.filter((slot) => errorOf(slot) === null).map((slot) => slot._id);
  }

  async #slots(action, payload) {
    return list((await this.request(action, payload)).result);
  }

  #unheard(name, error) {
    // The end of a request is expected, so it is not logged.
    if (error instanceof Cancelled) return;
    this.#line.log.warn(`api.${name} failed before anything awaited it: ${error?.message}`);
  }

  // A client that hangs up fails all calls of its request at once, including those that the function
  // does not await yet. That must not end the process, so every async method returns an `Answer`.
  static {
    for (const name of Object.getOwnPropertyNames(Api.prototype)) {
      const { value: method } = Object.getOwnPropertyDescriptor(Api.prototype, name);
      if (method?.constructor.name !== 'AsyncFunction') continue;
      Api.prototype[name] = function (...args) {
        return Answer.of(method.apply(this, args), (error) => this.#unheard(name, error));
      };
    }
  }
}

function list(result) {
  if (Array.isArray(result)) return result;
  throw new ApiError(`the server answered ${JSON.stringify(result)} instead of a list`);
}

const past = (asOf) => (asOf === undefined ? {} : { as_of: writeMoment(asOf) });

const errorOf = (slot) => (slot._type === 'error' ? ApiError.fromWire(slot) : null);

const recordOrError = (slot) => errorOf(slot) ?? Record.fromWire(slot);

function only([slot]) {
  if (slot instanceof ApiError) throw slot;
  return slot;
}

/** Returns the predicate of a query, which may be in JSON form already. */
function predicateOf(condition) {
  return condition instanceof Query ? (condition.toWire().predicate ?? []) : condition;
}

function idOf(target) {
  if (target instanceof Record) return target._id;
  return target instanceof Reference ? target.id : target;
}
