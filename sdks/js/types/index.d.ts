/** Plugins for Skytrail: hooks, lambdas, HTTP handlers, timers, and auth providers. */

/// <reference types="node" />

/**
 * A value that can be sent: JSON that may contain dates, references, places, files and records, and
 * what is sent as JSON: maps and forms as objects, sets as lists, anything that has a `toJSON`.
 */
export type Value =
  | null
  | string
  | number
  | boolean
  | Date
  | Reference
  | Geolocation
  | Asset
  | Sequence
  | UnknownValue
  | GeoJSON
  | ForeignValue
  | Record
  | ReadonlyMap<string, Value | undefined>
  | ReadonlySet<Value>
  | URLSearchParams
  | FormData
  | Headers
  | HttpHeaders
  | { toJSON(): unknown }
  | readonly Value[]
  | { readonly [name: string]: Value | undefined };

export type Awaitable<T> = T | PromiseLike<T>;

/** Who caused a request; empty for events and timers. */
export interface Context {
  user_id?: string;
  access_key_type?: 'client' | 'master' | 'none';
  request_id?: string;
  request_tag?: string;
  [name: string]: unknown;
}

/** An event of the log, delivered at least once, until it is acknowledged. */
export interface Delivery {
  /**
   * The same at every attempt, and never that of another delivery to the plugin: use it as the key
   * for having effects only once.
   */
  readonly id: string;
  /** The event's position in the log. */
  readonly position: number;
  readonly attempt: number;
  readonly at: Date | null;
  /** Whether it is delivered late, after an absence of the plugin. */
  readonly catchingUp: boolean;
}

/** What every function receives as its last argument. */
export interface Options {
  readonly context: Context;
  /** Aborted when nobody waits for the answer any more. */
  readonly signal: AbortSignal;
  readonly api: Api;
  /** The event that is delivered, for after-hooks. */
  readonly delivery: Delivery | null;
  /** Reports that a delivery is still being worked on; its time limit starts anew. */
  progress(): void;
}

/** A request to a lambda: the client's whole request, with decoded values. */
export interface OpParam {
  action: string;
  /** What the client sent: a list, an object, or nothing. */
  args?: any;
  [name: string]: any;
}

export interface CallOptions {
  /** How long an answer may take; the server's default is 30 s. */
  timeoutMs?: number;
  /** Whether a request may go to another worker when the first one died while working on it. */
  idempotent?: boolean;
}

export interface AccessOptions {
  /** Only for requests with a key or a token. */
  keyRequired?: boolean;
  /** Only for users who have logged in. */
  userRequired?: boolean;
}

export interface OpOptions extends CallOptions, AccessOptions {}

export interface HandlerOptions extends CallOptions, AccessOptions {
  /** GET, POST and PUT by default. */
  method?: string | readonly string[];
}

export interface HookOptions {
  /** The hook's name; by default the record type, the trigger, and the function's name. */
  name?: string;
  /** Nobody waits for it, and its changes have no effect. */
  async?: boolean;
  timeoutMs?: number;
}

export interface BeforeHookOptions extends HookOptions {
  idempotent?: boolean;
}

export interface AfterHookOptions extends HookOptions {
  /** What it receives after an absence: all events, the latest of each record, or none. */
  catchUp?: 'all' | 'latest' | 'none';
}

export interface TimerOptions {
  /** The timer's name; by default the function's. */
  name?: string;
  timeoutMs?: number;
  /** The time zone that the spec is read in, such as `Asia/Hong_Kong`; by default the server's. */
  timeZone?: string;
  /** Whether a run may start while the previous one is still running; `skip` by default. */
  overlap?: 'skip' | 'allow';
}

/** The result of a login. */
export interface Principal {
  /** The account's permanent id. */
  principal_id: string;
  /** Stored with the user, and replaced at each login. */
  auth_data?: { [name: string]: unknown };
}

export interface ProviderParam {
  action: string;
  /** What the client sent as `provider_auth_data`. */
  auth_data: any;
}

/** Authenticates users; whatever it throws, the client learns only that it may not log in. */
export interface AuthProvider {
  login(param: ProviderParam, options: Options): Awaitable<Principal>;
  logout?(param: ProviderParam, options: Options): Awaitable<unknown>;
  info?(param: ProviderParam, options: Options): Awaitable<unknown>;
}

export interface Log {
  debug(text: string): void;
  info(text: string): void;
  warn(text: string): void;
  error(text: string): void;
}

export interface Settings {
  /** The plugin's name in the server's `PLUGINS`; `PLUGIN_NAME`. */
  name?: string;
  /** The server's address; `SKYGEAR_ENDPOINT`, http://127.0.0.1:3000. */
  endpoint?: string;
  /** `MASTER_KEY`. */
  masterKey?: string;
  /** How many requests to handle at once; `PLUGIN_WINDOW`, 16. */
  window?: number;
  /** The deployment: a higher one's workers replace those of a lower one; `PLUGIN_GENERATION`, 0. */
  generation?: number;
  /** The largest message that is accepted or sent, in bytes; `PLUGIN_MAX_MESSAGE`, 8 MiB. */
  maxMessage?: number;
  /** How long running requests may take to finish when the plugin is told to stop; 30 s. */
  drainMs?: number;
  /**
   * Deliveries start after this position, for plugins that store it together with their effects. A
   * number counts once, when the process starts; a function is called whenever the plugin connects.
   */
  from?: number | (() => Awaitable<number>);
  log?: Log;
}

/** A plugin: what it does, and the server that it does it for. */
export class Plugin {
  constructor(name?: string, settings?: Settings);

  readonly api: Api;
  /** The request that the running function answers; null outside a request. */
  readonly current: Options | null;
  /** `stopped`, `connecting`, `registering`, `registered`, or what the server reports: `ready`. */
  readonly state: string;

  /** Registers a lambda: an action of the plugin. */
  op(name: string, fn: (param: OpParam, options: Options) => unknown, options?: OpOptions): void;
  /** Answers HTTP requests to a path; a path that ends in `/` also takes everything below it. */
  handler(
    path: string,
    fn: (request: HandlerRequest, options: Options) => unknown,
    options?: HandlerOptions
  ): void;
  /** Can change a record before it is saved, or reject it by throwing. */
  beforeSave(
    type: string,
    fn: (
      record: Record,
      original: Record | null,
      options: Options
    ) => Awaitable<Record | null | undefined | void>,
    options?: BeforeHookOptions
  ): void;
  /** Receives every saved record at least once, also after an absence. */
  afterSave(
    type: string,
    fn: (record: Record, original: Record | null, options: Options) => unknown,
    options?: AfterHookOptions
  ): void;
  /** Can reject a deletion by throwing. */
  beforeDelete(
    type: string,
    fn: (record: Record, original: null, options: Options) => unknown,
    options?: BeforeHookOptions
  ): void;
  /** Receives every deleted record at least once, also after an absence. */
  afterDelete(
    type: string,
    fn: (record: Record, original: null, options: Options) => unknown,
    options?: AfterHookOptions
  ): void;
  /** Runs by a spec such as `@hourly` or `0 30 8 * * MON-FRI`, or at an interval in seconds. */
  every(spec: string | number, fn: (options: Options) => unknown, options?: TimerOptions): void;
  /** Registers an auth provider: an object, or a class. */
  provides(
    kind: 'auth',
    id: string,
    provider: AuthProvider | (new () => AuthProvider),
    options?: CallOptions
  ): void;
  /** Receives `init`, `server-ready`, `schema-changed`, … */
  event(name: string, fn: (param: any, options: Options) => unknown): void;
  /** Serves the files of a folder below `/static/<prefix>/`. */
  staticAsset(prefix: string, folder: () => Awaitable<string>): void;

  /**
   * Serves until SIGTERM or SIGINT, then finishes what is in flight. Some seconds after it has
   * returned, the process exits, whatever is still open. Programs that are more than a plugin call
   * `serve`.
   */
  run(settings?: Settings): Promise<void>;
  /** Serves until `stop`. Throws `Refused`. */
  serve(settings?: Settings): Promise<void>;
  /** Finishes what is in flight, then ends `serve`. */
  stop(): void;
  /** Changes how many requests are accepted at once; 0 pauses. */
  setWindow(size: number): void;
}

/** The plugin of a process that has only one, named by `PLUGIN_NAME`. */
declare const plugin: Plugin;
export default plugin;

export interface RequestOptions {
  /** How long to wait; 60 s, and never longer than the request that the call belongs to. */
  timeoutMs?: number;
  signal?: AbortSignal;
}

export interface DatabaseOptions {
  /** `_public`, `_private`, or a user's id. */
  database?: string;
}

export interface BatchOptions extends DatabaseOptions {
  /** Save or delete either all or none. */
  atomic?: boolean;
}

export interface SaveOptions extends BatchOptions {
  /**
   * Save a record only if it exists and the stored version matches: a query, of which only the
   * conditions count, or a predicate in JSON form. Otherwise it fails with `ConstraintViolated`.
   */
  if?: Query | readonly unknown[];
  /** Save a record only if it does not exist; otherwise it fails with `Duplicated`. */
  createOnly?: boolean;
}

/** A position of the log, or a time. */
export type Moment = number | Date;

export interface PastOptions extends DatabaseOptions {
  /** The point in time; by default the present. */
  asOf?: Moment;
}

export interface HistoryOptions {
  /** Only versions up to and including this moment. */
  until?: Moment;
  /** Only versions after this moment. */
  after?: Moment;
  /** Only changes by this user. */
  user?: string;
  /** Only versions of these kinds. */
  kinds?: readonly VersionKind[];
  /** How many versions are requested at once. */
  page?: number;
}

export type VersionKind =
  | 'record.created'
  | 'record.changed'
  | 'record.replaced'
  | 'record.deleted';

/** A version of a record. */
export class Version {
  private constructor();
  /** The log position of the event that created it; can be used as a moment. */
  readonly position: number;
  /** The version's number, from 1. */
  readonly version: number;
  readonly kind: VersionKind;
  readonly time: Date;
  readonly actor: {
    readonly user?: string;
    readonly key: 'none' | 'client' | 'master';
    /** `user`: the master key did it with only the rights of `user`. */
    readonly rights?: 'user';
    readonly origin: string;
    readonly plugin?: string;
  };
  readonly requestId: string | null;
  /** Hooks that took part. */
  readonly hooks: readonly { plugin: string; hook: string; changed: string[] }[];
  /** The record as of this version; null when it was deleted. */
  readonly record: Record | null;
  /** What changed, by field; access list and owner are `_access` and `_ownerID`. */
  readonly changes: { readonly [field: string]: { readonly before: any; readonly after: any } };
}

export type RecordId = string | Reference | Record;

/** The server's actions, with the rights of the master key, or only those of a user. */
export class Api {
  private constructor();
  readonly userId: string | null;
  /** Returns an API that acts as a user, who owns what it creates. Throws `TypeError` without an id. */
  asUser(userId: string): Api;
  /** Returns an API that may do only what a user may, as that user. Throws `TypeError` without an id. */
  withRightsOf(userId: string): Api;
  /** Runs any action and returns its result. Throws `ApiError`. */
  action(name: string, payload?: object, options?: RequestOptions): Promise<any>;
  /** Runs any action and returns its whole answer, in JSON form. Throws `ApiError`. */
  request(name: string, payload?: object, options?: RequestOptions): Promise<any>;
  /** Runs a lambda, of this plugin or another. */
  lambda(name: string, args?: readonly unknown[] | object, options?: RequestOptions): Promise<any>;
  /**
   * Saves the fields that a record has, and its access list if `access` was set or fetched:
   * otherwise a stored record keeps its list, and a new one gets its type's default.
   */
  save(record: Record, options?: SaveOptions): Promise<Record>;
  save(records: readonly Record[], options?: SaveOptions): Promise<(Record | ApiError)[]>;
  fetch(id: RecordId, options?: PastOptions): Promise<Record>;
  fetch(ids: readonly RecordId[], options?: PastOptions): Promise<(Record | ApiError)[]>;
  query(
    query: Query | string,
    options?: PastOptions & {
      predicate?: readonly unknown[];
      sort?: readonly unknown[];
      limit?: number;
      offset?: number;
      count?: boolean;
      include?: object;
    }
  ): Promise<Record[] & { overallCount: number | null }>;
  /** Iterates over a record's versions, newest first, one page at a time. */
  history(id: RecordId, options?: HistoryOptions): AsyncGenerator<Version, void, undefined>;
  /** Saves a record as it was, as a new version; a deleted record exists again. */
  restore(id: RecordId, asOf: Moment | Version): Promise<Record>;
  delete(id: RecordId, options?: BatchOptions): Promise<null>;
  delete(ids: readonly RecordId[], options?: BatchOptions): Promise<(ApiError | null)[]>;
  /** Publishes to a channel, or to several at once. */
  publish(channels: string | readonly string[], data: unknown): Promise<void>;
  /** Sends a notification to all devices of users, or only to those with a topic. */
  pushToUsers(
    users: string | readonly string[],
    notification: Notification,
    options?: { topic?: string }
  ): Promise<void>;
  /** Like `pushToUsers`, for devices. Returns the ids of those that exist. */
  pushToDevices(
    devices: string | readonly string[],
    notification: Notification,
    options?: { topic?: string }
  ): Promise<string[]>;
}

/** What each kind of device gets. */
export interface Notification {
  apns?: object;
  apns_headers?: object;
  fcm?: object;
  web?: object;
  web_headers?: object;
}

export type Level = 'read' | 'write';

export type AccessEntry =
  | { public: true; level: Level }
  | { user_id: string; level: Level }
  | { role: string; level: Level }
  | { relation: string; level: Level };

/**
 * A record; its fields are its properties. A field with the name of a member, such as `ownerID`, is
 * reached with `get` and `set` only.
 */
export class Record {
  /** `id` is `type/key`, or only a type for a record with a new key. */
  constructor(id: string, fields?: { [name: string]: Value | undefined });
  [field: string]: any;
  /** Returns a field, whatever its name. */
  get(name: string): any;
  /** Sets a field, whatever its name; those that begin with `_` are refused. */
  set(name: string, value: Value | undefined): void;
  readonly _id: string;
  readonly id: string;
  readonly recordType: string;
  readonly recordID: string;
  readonly ownerID: string | null;
  readonly createdAt: Date | null;
  readonly createdBy: string | null;
  readonly updatedAt: Date | null;
  readonly updatedBy: string | null;
  /**
   * Who may read and write; null means everybody, undefined leaves it to the server. If you set it to
   * null, it is sent as a list that lets everybody write.
   */
  access: AccessEntry[] | null | undefined;
  /** What arrived with the record and is not stored, such as included records. */
  readonly $transient: { [name: string]: any };
  setPublicNoAccess(): void;
  setPublicReadOnly(): void;
  setPublicReadWriteAccess(): void;
  setNoAccessForUser(user: string | Record): void;
  setReadOnlyForUser(user: string | Record): void;
  setReadWriteAccessForUser(user: string | Record): void;
  setNoAccessForRole(role: string | { name: string }): void;
  setReadOnlyForRole(role: string | { name: string }): void;
  setReadWriteAccessForRole(role: string | { name: string }): void;
  static fromWire(wire: object): Record;
  toWire(): { [name: string]: any };
  toJSON(): { [name: string]: any };
}

/** A query for records of a type; every method adds to the query and returns it. */
export class Query {
  constructor(recordType: string);
  static or(...queries: Query[]): Query;
  static not(query: Query): Query;
  /** Adds a condition in its JSON form, for conditions that have no method. */
  where(predicate: readonly unknown[]): this;
  equalTo(field: string, value: Value): this;
  notEqualTo(field: string, value: Value): this;
  greaterThan(field: string, value: Value): this;
  greaterThanOrEqualTo(field: string, value: Value): this;
  lessThan(field: string, value: Value): this;
  lessThanOrEqualTo(field: string, value: Value): this;
  like(field: string, pattern: string): this;
  caseInsensitiveLike(field: string, pattern: string): this;
  /** The field is one of these values. */
  contains(field: string, values: readonly Value[]): this;
  /** The field is a list that contains this value. */
  containsValue(field: string, value: Value): this;
  withinDistance(field: string, place: Geolocation, metres: number): this;
  addAscending(field: string): this;
  addDescending(field: string): this;
  transientInclude(field: string, as?: string): this;
  limit(number: number): this;
  offset(number: number): this;
  count(): this;
  toWire(): object;
}

/** A value that refers to a record. */
export class Reference {
  constructor(target: string | Record);
  readonly id: string;
}

/** A point on earth, in degrees. */
export class Geolocation {
  constructor(latitude: number, longitude: number);
  latitude: number;
  longitude: number;
}

/** A file. `url` is signed, and valid for some minutes. */
export class Asset {
  constructor(file: { name: string; contentType?: string; url?: string });
  readonly name: string;
  readonly contentType?: string;
  readonly url?: string;
  /** Without it whatever has a name would pass for one, such as an error. */
  private readonly isAsset: undefined;
}

/** Saved into a field, it makes the server number the records. */
export class Sequence {
  /** Without a member of its own, anything would pass for one, such as a promise. */
  private readonly isSequence: undefined;
}

/** A value whose type the server does not know. */
export class UnknownValue {
  constructor(underlyingType?: string);
  readonly underlyingType?: string;
}

/** A shape, as GeoJSON. */
export class GeoJSON {
  constructor(value: object);
  readonly value: any;
}

/**
 * A value with a `$type` that this package does not know, or a date that no `Date` can hold; it is
 * sent back unchanged.
 */
export class ForeignValue {
  constructor(wire: object);
  readonly wire: any;
}

/** Like the platform's `Headers`, but a value can be any string. */
export class HttpHeaders {
  constructor(
    headers?:
      | Iterable<readonly [string, string]>
      | { readonly [name: string]: string | readonly string[] }
  );
  append(name: string, value: string): void;
  delete(name: string): void;
  /** The value; several values are joined with commas. */
  get(name: string): string | null;
  has(name: string): boolean;
  set(name: string, value: string): void;
  getSetCookie(): string[];
  forEach(visit: (value: string, name: string, headers: HttpHeaders) => void, self?: unknown): void;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
  entries(): IterableIterator<[string, string]>;
  [Symbol.iterator](): IterableIterator<[string, string]>;
}

/** A request to a handler. */
export class HandlerRequest {
  constructor(request: {
    method: string;
    path: string;
    queryString?: string;
    headers?: HttpHeaders | Headers | { [name: string]: string | readonly string[] };
    body?: string | Uint8Array;
  });
  readonly method: string;
  readonly path: string;
  readonly queryString: string;
  readonly headers: HttpHeaders;
  readonly body: Buffer;
  /** If several have the same name, the last one; `searchParams.getAll(name)` has all. */
  readonly query: { [name: string]: string };
  readonly searchParams: URLSearchParams;
  readonly url: string;
  text(): string;
  json(): any;
  form(): URLSearchParams;
}

/** A response with a status, headers, and a body: a string, bytes, or anything that becomes JSON. */
export class SkygearResponse {
  constructor(response?: {
    statusCode?: number;
    headers?: HttpHeaders | Headers | { [name: string]: string | readonly string[] };
    body?: unknown;
  });
  readonly statusCode: number;
  readonly headers: HttpHeaders;
  readonly body: Buffer;
  text(): string;
  json(): any;
}

/** The codes that clients know by name. A plugin may also use its own codes. */
export const ErrorCodes: Readonly<{
  NotAuthenticated: 101;
  PermissionDenied: 102;
  AccessKeyNotAccepted: 103;
  AccessTokenNotAccepted: 104;
  InvalidCredentials: 105;
  InvalidSignature: 106;
  BadRequest: 107;
  InvalidArgument: 108;
  Duplicated: 109;
  ResourceNotFound: 110;
  NotSupported: 111;
  NotImplemented: 112;
  ConstraintViolated: 113;
  IncompatibleSchema: 114;
  AtomicOperationFailure: 115;
  PartialOperationFailure: 116;
  UndefinedOperation: 117;
  PluginUnavailable: 118;
  PluginTimeout: 119;
  RecordQueryInvalid: 120;
  PluginInitializing: 121;
  ResponseTimeout: 122;
  DeniedArgument: 123;
  RecordQueryDenied: 124;
  NotConfigured: 125;
  PasswordPolicyViolated: 126;
  UserDisabled: 127;
  VerificationRequired: 128;
  AssetSizeTooLarge: 129;
  UnexpectedError: 10000;
}>;

/** An error with a code that clients branch on; `info` is for programs to read. */
export class SkytrailError extends Error {
  constructor(message: string, code?: number, info?: object | null, options?: ErrorOptions);
  readonly code: number;
  readonly info: any;
  toJSON(): { code: number; message: string; info?: object };
}
export { SkytrailError as SkygearError };

/** Thrown by an after-hook: this event can never be handled; do not send it again. */
export class Drop extends SkytrailError {
  constructor(message: string, code?: number);
}

/** Thrown by an after-hook: not now; send the event again after this many milliseconds. */
export class RetryAfter extends SkytrailError {
  constructor(ms: number, message?: string, code?: number);
}

/** An action that the plugin called has failed. Unless it is caught, it becomes the answer. */
export class ApiError extends SkytrailError {
  constructor(message: string, code?: number, info?: object | null, status?: number);
  /** The HTTP status of the answer. */
  readonly status: number;
}

/** The server is not connected, or the session was lost together with the reply. */
export class ConnectionLost extends ApiError {
  constructor(message?: string);
}

/** No reply arrived in time: the action may or may not have happened. */
export class CallTimeout extends ApiError {
  constructor(message?: string);
}

/** The message is larger than the server or the plugin accepts; nothing was sent. */
export class MessageTooLarge extends ApiError {
  constructor(numBytes: number, limit: number, what?: string, whose?: string);
}

/** Nobody waits for the answer any more: the reason of `options.signal`. */
export class Cancelled extends SkytrailError {
  constructor(reason: string);
  /** `deadline`, `client-gone`, `shutdown`, `connection-lost`, … */
  readonly reason: string;
}

/** The server rejects this plugin, and would do so again. */
export class Refused extends SkytrailError {
  constructor(
    message: string,
    closeCode?: number,
    problems?: { list: string; name: string; message: string }[]
  );
  readonly closeCode?: number;
  readonly problems: { list: string; name: string; message: string }[];
}
