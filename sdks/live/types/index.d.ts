/** Live queries of a Skytrail server. */

/** A record, or an error, as the server writes it. */
export interface LiveRecord {
  readonly _id: string;
  readonly [field: string]: unknown;
}

export interface LiveError {
  readonly code?: number;
  readonly name?: string;
  readonly message: string;
  readonly info?: { readonly [name: string]: unknown };
}

/** What `record:query` takes, except for the parameters that cut a result. */
export interface QueryParameters {
  record_type: string;
  predicate?: unknown;
  database_id?: string;
  desired_keys?: readonly string[];
  include?: { readonly [name: string]: unknown };
}

export interface Snapshot<T extends LiveRecord = LiveRecord> {
  /** In the order of `compare`, or as they came. Do not change them. */
  readonly records: readonly T[];
  /** Whether there has been a result. */
  readonly isReady: boolean;
  /** Whether there may be changes that have not arrived: it is being asked, or the connection is lost. */
  readonly isStale: boolean;
  /** The position of the log up to which everything is here. */
  readonly position?: number;
  /** Why the server has ended it. */
  readonly error?: LiveError;
}

export interface Changes<T extends LiveRecord = LiveRecord> {
  readonly entered: readonly T[];
  readonly changed: readonly T[];
  /** As they were last known. */
  readonly left: readonly T[];
}

export interface QueryOptions<T extends LiveRecord = LiveRecord> {
  compare?: (one: T, other: T) => number;
  /** Called with what a new snapshot changes, beginning with the first result. */
  onChanges?: (changes: Changes<T>) => void;
  /** Called when the server ends the query. */
  onError?: (error: LiveError) => void;
}

export interface LiveQuery<T extends LiveRecord = LiveRecord> {
  /** Calls `listener` after each change of the snapshot; returns a function that ends this. */
  subscribe(listener: () => void): () => void;
  /** Returns what is known; the same object until it changes. */
  snapshot(): Snapshot<T>;
  /** Resolves with the first result, or rejects with an `Error` whose `error` is the server's. */
  first(): Promise<readonly T[]>;
  /** Ends it. The last snapshot stays. */
  close(): void;
}

/** What is needed of a WebSocket. */
export interface Socket {
  onopen: ((event: any) => unknown) | null;
  onmessage: ((event: any) => unknown) | null;
  onclose: ((event: any) => unknown) | null;
  onerror: ((event: any) => unknown) | null;
  send(text: string): void;
  close(): void;
}

export interface ClientOptions {
  /** The server's address, such as `https://app.example`; in a page it may be a path. */
  url: string;
  apiKey?: string;
  accessToken?: string;
  /** Where there is none, or another is better: the class `WebSocket` of the package `ws`. */
  WebSocket?: new (url: string) => Socket;
  /** Called when the server ends the connection for good: the user has to sign in again, or may not follow queries. */
  onSessionOver?: (error: LiveError) => void;
}

export type State = 'idle' | 'connecting' | 'live' | 'waiting' | 'over';

/** One socket for any number of live queries, which opens with the first of them. */
export class LiveClient {
  constructor(options: ClientOptions);
  /** 'idle' without queries, 'connecting', 'live', 'waiting' to try again, or 'over'. */
  readonly state: State;
  /** Calls `listener` after each change of the state; returns a function that ends this. */
  subscribe(listener: () => void): () => void;
  /** Follows a query. */
  query<T extends LiveRecord = LiveRecord>(parameters: QueryParameters, options?: QueryOptions<T>): LiveQuery<T>;
  /** Goes on as another user, or as nobody: nothing that the last one saw stays. */
  setAccessToken(accessToken?: string): void;
  /** Ends all queries, and the connection. */
  close(): void;
}
