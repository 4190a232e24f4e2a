/** Finds the function for a request, calls it, and encodes what it returns. */

import { ErrorCodes, SkytrailError } from './errors.js';
import { HandlerRequest, SkygearResponse } from './http.js';
import { Record } from './record.js';
import { decode, encode } from './values.js';

/**
 * Returns the result of a request, ready for JSON, or throws. Functions receive `options` as their
 * last argument.
 */
export async function answer(points, request, options) {
  const { kind, name } = request;
  const param = request.param ?? {};
  switch (kind) {
    case 'op':
      return encode(await find(points.ops, 'lambda', name)(decode(param), options));
    case 'handler':
      return runHandler(points, name, param, options);
    case 'hook':
      return runHook(find(points.hooks, 'hook', name), param, options);
    case 'timer':
      return encode(await find(points.timers, 'timer', name)(options));
    case 'provider':
      return runProvider(find(points.providers, 'auth provider', name), name, param, options);
    case 'event':
      return runEvent(points, name, param, options);
    default:
      throw new SkytrailError(`unknown kind of request: ${kind}`, ErrorCodes.UndefinedOperation);
  }
}

function find(known, kind, name) {
  const found = known.get(name);
  if (found !== undefined) return found;
  throw new SkytrailError(`this plugin has no ${kind} ${name}`, ErrorCodes.UndefinedOperation);
}

async function runHandler(points, name, param, options) {
  const fn = find(points.handlers, 'handler', `${param.method} ${name}`);
  const returned = await fn(HandlerRequest.fromWire(param), options);
  return (await SkygearResponse.of(returned)).toWire();
}

async function runHook({ trigger, fn }, param, options) {
  const record = Record.fromWire(param.record);
  const original = param.original == null ? null : Record.fromWire(param.original);
  const returned = await fn(record, original, options);
  // What other hooks return has no effect, and the server expects the record.
  if (trigger !== 'beforeSave') return param.record;
  if (returned === undefined || returned === null) return record.toWire();
  if (returned instanceof Record) return returned.toWire();
  throw new TypeError('a beforeSave hook returns the record, or nothing');
}

async function runProvider(provider, id, param, options) {
  const { action } = param;
  if (!['login', 'logout', 'info'].includes(action) || typeof provider[action] !== 'function') {
    throw new SkytrailError(`auth provider ${id} has no ${action}`, ErrorCodes.NotSupported);
  }
  const result = await provider[action](decode(param), options);
  if (action === 'login' && (typeof result?.principal_id !== 'string' || !result.principal_id)) {
    throw new TypeError(`login of auth provider ${id} should return a principal_id`);
  }
  return encode(result);
}

async function runEvent(points, name, param, options) {
  points.noteEvent(name);
  for (const fn of points.events.get(name) ?? []) await fn(decode(param), options);
  // Functions for `init` can add points.
  return name === 'init' ? points.registration() : null;
}
