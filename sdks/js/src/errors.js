/**
 * Errors that functions throw, and errors that the server's actions answer with.
 *
 * Whatever a function throws becomes the answer to the request: a `SkytrailError` as it is, anything
 * else as an unexpected error (10000) with the stack in `info.trace`, which the server shows to
 * clients in development only.
 */

import { encode } from './values.js';

/** The codes that clients know by name. Codes of one's own are allowed, too. */
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

  /** The error as it travels. */
  toJSON() {
    const { code, message, info } = this;
    return info === null ? { code, message } : { code, message, info };
  }
}

/** Thrown by an after-hook: this event can never be handled, so it is not to come again. */
export class Drop extends SkytrailError {
  constructor(message, code = ErrorCodes.UnexpectedError) {
    super(message, code, { drop: true });
  }
}

/** Thrown by an after-hook: the event is to come again after so many milliseconds. */
export class RetryAfter extends SkytrailError {
  constructor(ms, message = 'later', code = ErrorCodes.UnexpectedError) {
    super(message, code, { retry_after_ms: Math.max(0, Math.round(ms)) });
  }
}

/** An action that the plugin asked for has failed. Unless it is caught, it is the answer, too. */
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

/** The server is not there, or the session went away with the reply. */
export class ConnectionLost extends ApiError {
  constructor(message = 'connection lost; the action may have happened') {
    super(message, ErrorCodes.PluginUnavailable, null, 503);
  }
}

/** There was no reply in time: the action may have happened, or not. */
export class CallTimeout extends ApiError {
  constructor(message = 'no reply in time; the action may have happened') {
    super(message, ErrorCodes.ResponseTimeout, null, 504);
  }
}

/** What was to be sent is larger than `whose` limit; nothing was sent. */
export class MessageTooLarge extends ApiError {
  constructor(numBytes, limit, what = 'a message', whose = 'server') {
    const bound = `the ${whose}'s limit of ${limit}, PLUGIN_MAX_MESSAGE`;
    const message = `${what} of ${numBytes} bytes is above ${bound}`;
    super(message, ErrorCodes.BadRequest, null, 413);
  }
}

/** Nobody waits for the answer to a request any more; `reason` is the server's word for why. */
export class Cancelled extends SkytrailError {
  constructor(reason) {
    super(`cancelled: ${reason}`, ErrorCodes.PluginTimeout);
    this.reason = reason;
  }
}

/** The server will not have this plugin, and would only say so again. */
export class Refused extends SkytrailError {
  constructor(message, closeCode = undefined, problems = []) {
    super(message, ErrorCodes.UnexpectedError);
    this.closeCode = closeCode;
    this.problems = problems;
  }
}

/** Whether something that was thrown has a code of its own. Never throws, as what follows. */
export function isSkytrailError(thrown) {
  try {
    return thrown instanceof SkytrailError;
  } catch {
    // A proxy.
    return false;
  }
}

/** Returns what a failed request answers. Anything can be thrown, and getters can throw, too. */
export function errorToWire(thrown) {
  try {
    return isSkytrailError(thrown) ? encoded(thrown.toJSON()) : unexpected(thrown);
  } catch {
    return { code: ErrorCodes.UnexpectedError, message: 'what was thrown cannot be told' };
  }
}

/** Values in an error's info travel as in results. What cannot be sent the session leaves out. */
function encoded(error) {
  try {
    return error.info === undefined ? error : { ...error, info: encode(error.info) };
  } catch {
    return error;
  }
}

function unexpected(thrown) {
  const text = thrown instanceof Error ? thrown.message || thrown.name : thrown;
  const message = String(text);
  return { code: ErrorCodes.UnexpectedError, message, info: { trace: traceOf(thrown, message) } };
}

function traceOf(thrown, message) {
  try {
    return String(thrown?.stack ?? message);
  } catch {
    return message;
  }
}
