/**
 * Errors that functions throw, and errors that the server's actions return.
 *
 * Whatever a function throws becomes the answer to the request. A `SkytrailError` is sent as it is.
 * Anything else becomes an unexpected error (10000) with the stack in `info.trace`, which the server
 * shows to clients in development mode only.
 */

import { inspect } from 'node:util';

import { encode } from './values.js';

/** The codes that clients know by name. A plugin may also use its own codes. */
export const ErrorCodes = Object.freeze({
  NotAuthenticated: 101,
  PermissionDenied: 102,
  AccessKeyNotAccepted: 103,
  AccessTokenNotAccepted: 104,
  InvalidCredentials: 105,
  InvalidSignature: 106,
  BadRequest: 107,
  InvalidArgument: 108,
  Duplicated: 109,
  ResourceNotFound: 110,
  NotSupported: 111,
  NotImplemented: 112,
  ConstraintViolated: 113,
  IncompatibleSchema: 114,
  AtomicOperationFailure: 115,
  PartialOperationFailure: 116,
  UndefinedOperation: 117,
  PluginUnavailable: 118,
  PluginTimeout: 119,
  RecordQueryInvalid: 120,
  PluginInitializing: 121,
  ResponseTimeout: 122,
  DeniedArgument: 123,
  RecordQueryDenied: 124,
  NotConfigured: 125,
  PasswordPolicyViolated: 126,
  UserDisabled: 127,
  VerificationRequired: 128,
  AssetSizeTooLarge: 129,
  UnexpectedError: 10000
});

/** An error with a code that clients branch on; `info` is for programs to read. */
export class SkytrailError extends Error {
  constructor(message, code = ErrorCodes.UnexpectedError, info = null, options = undefined) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
    this.info = info;
  }

  /** Returns the error in its JSON form. */
  toJSON() {
    const { code, message, info } = this;
    return info === null ? { code, message } : { code, message, info };
  }
}

/** Thrown by an after-hook: this event can never be handled; do not send it again. */
export class Drop extends SkytrailError {
  constructor(message, code = ErrorCodes.UnexpectedError) {
    super(message, code, { drop: true });
  }
}

/** Thrown by an after-hook: not now; send the event again after this many milliseconds. */
export class RetryAfter extends SkytrailError {
  constructor(ms, message = 'not now', code = ErrorCodes.UnexpectedError) {
    super(message, code, { retry_after_ms: Math.max(0, Math.round(ms)) });
  }
}

/** An action that the plugin called has failed. Unless it is caught, it becomes the answer. */
export class ApiError extends SkytrailError {
  constructor(message, code, info = null, status = 500) {
    super(message, code, info);
    this.status = status;
  }

  static fromWire(wire, status = 500) {
    const { message = `status ${status}`, code = ErrorCodes.UnexpectedError, info } = wire ?? {};
    return new ApiError(message, code, info ?? null, status);
  }
}

/** The server is not connected, or the session was lost together with the reply. */
export class ConnectionLost extends ApiError {
  constructor(message = 'connection lost; the action may have happened') {
    super(message, ErrorCodes.PluginUnavailable, null, 503);
  }
}

/** No reply arrived in time: the action may or may not have happened. */
export class CallTimeout extends ApiError {
  constructor(message = 'no reply in time; the action may have happened') {
    super(message, ErrorCodes.ResponseTimeout, null, 504);
  }
}

/** The message is larger than the limit of `whose`; nothing was sent. */
export class MessageTooLarge extends ApiError {
  constructor(numBytes, limit, what = 'a message', whose = 'server') {
    const bound = `the ${whose}'s limit of ${limit}, PLUGIN_MAX_MESSAGE`;
    const message = `${what} of ${numBytes} bytes is above ${bound}`;
    super(message, ErrorCodes.BadRequest, null, 413);
  }
}

/** Nobody waits for the answer to a request any more; `reason` is the server's. */
export class Cancelled extends SkytrailError {
  constructor(reason) {
    super(`cancelled: ${reason}`, ErrorCodes.PluginTimeout);
    this.reason = reason;
  }
}

/** The server rejects this plugin, and would do so again. */
export class Refused extends SkytrailError {
  constructor(message, closeCode = undefined, problems = []) {
    super(message, ErrorCodes.UnexpectedError);
    this.closeCode = closeCode;
    this.problems = problems;
  }
}

/** Returns whether a thrown value has its own code. Never throws; nor do the functions below. */
export function isSkytrailError(thrown) {
  try {
    return thrown instanceof SkytrailError;
  } catch {
    // It is a proxy that throws.
    return false;
  }
}

/** Returns the answer to a failed request. Anything can be thrown, and getters can throw, too. */
export function errorToWire(thrown) {
  try {
    return isSkytrailError(thrown) ? encoded(thrown.toJSON()) : unexpected(thrown);
  } catch {
    return { code: ErrorCodes.UnexpectedError, message: 'the thrown value cannot be described' };
  }
}

/** Encodes the values in an error's info as in results. The session leaves out what cannot be sent. */
function encoded(error) {
  try {
    return error.info === undefined ? error : { ...error, info: encode(error.info) };
  } catch {
    return error;
  }
}

function unexpected(thrown) {
  const message = messageOf(thrown);
  return { code: ErrorCodes.UnexpectedError, message, info: { trace: describe(thrown, message) } };
}

function messageOf(thrown) {
  if (thrown instanceof Error) return String(thrown.message || thrown.name);
  // The members of another object are for the log only: clients see the message.
  if (thrown === undefined || typeof thrown === 'object') return 'An unexpected error has occurred.';
  return String(thrown);
}

/** Describes what was thrown, with its stack, its causes and its members, for the log. */
export function describe(thrown, otherwise = 'what was thrown cannot be told') {
  try {
    return inspect(thrown);
  } catch {
    return otherwise;
  }
}
