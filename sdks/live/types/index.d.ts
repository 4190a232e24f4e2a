/** Live queries of Skytrail: results that stay up to date. */

/** A value as docs/API.md has it on the wire: dates, references and others are objects with a `$type`. */
export type Json =
  | null
  | string
  | number
  | boolean
  | readonly Json[]
  | { readonly [name: string]: Json };

/** A record as `record:query` answers it. */
export interface LiveRecord {
  /** The type and the id: `note/1`. */
  readonly _id: string;
  readonly [name: string]: unknown;
}

/** What is asked: the parameters of `record:query` that a live query can have. */
export interface LiveParameters {
  record_type: string;
  predicate?: readonly unknown[];
  database_id?: string;
  desired_keys?: readonly string[] | null;
  include?: { readonly [name: string]: unknown };
}

export interface LiveOptions<R = LiveRecord> {
  /** The order of the records. Without it, a record that enters the result comes last. */
  compare?: (a: R, b: R) => number;
}

/** A result. It is frozen, and there is a new one for each change. */
export interface LiveSnapshot<R = LiveRecord> {
  /** The same array as long as no record enters, changes or leaves. */
  readonly records: readonly R[];
  /** Whether there has been a result. */
  readonly isReady: boolean;
  /**
   * Whether something may have happened that is not here yet: the query is not followed, the
   * connection is lost, or what was missed is being made up for.
   */
  readonly isStale: boolean;
  /** Why the query is no longer followed. An error that passes is never here. */
  readonly error: LiveError | null;
  /** The records are the result at this position of the log. */
  readonly position: number | null;
}

/** What has happened between two snapshots. */
export interface LiveChanges<R = LiveRecord> {
  readonly entered: R[];
  readonly changed: R[];
  /** As they were last known. */
  readonly left: R[];
}

/** Ends what it was returned for. */
export type Unsubscribe = () => void;

/**
 * A query's result. It is followed while there are listeners, and a second longer. What is known
 * is kept; with the next listener it continues from there.
 */
export class LiveQuery<R = LiveRecord> {
  private constructor();
  /** Calls a listener with the snapshot: now, and after each change. */
  readonly subscribe: (listener: (snapshot: LiveSnapshot<R>) => void) => Unsubscribe;
  /** Returns the present snapshot: the same object until listeners are called again. */
  readonly snapshot: () => LiveSnapshot<R>;
  /**
   * Calls a listener with the changes between snapshots. Each listener begins with nothing: if
   * records are known, its first call has them as `entered`, at once.
   */
  readonly onChange: (listener: (changes: LiveChanges<R>) => void) => Unsubscribe;
  /** Asks again at once if there is an error: its reason may have passed. */
  readonly retry: () => void;
  /** Removes all listeners, and stops following at once. */
  close(): void;
}

/** An error of the server; docs/API.md lists the codes. */
export class LiveError extends Error {
  constructor(error: { code: number; message: string; info?: { [name: string]: unknown } });
  readonly name: 'LiveError';
  readonly code: number;
  readonly info: { readonly [name: string]: unknown };
}

/**
 * - `idle`: nothing is followed, or nobody is signed in
 * - `connecting`: the socket is being opened
 * - `live`: the socket is open
 * - `waiting`: the connection was lost; there is a pause before the next attempt
 * - `over`: the server has refused the client, and would again
 */
export type LiveState = 'idle' | 'connecting' | 'live' | 'waiting' | 'over';

/** The part of a WebSocket that is needed. */
export interface LiveSocket {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(text: string): void;
  close(): void;
}

export interface LiveClientOptions {
  /** The server's address. Without it, the page's server. */
  url?: string;
  /** The client key. */
  apiKey?: string;
  /** The user's token. Without it, queries see what everybody may see; null: nobody is signed in yet. */
  accessToken?: string | null;
  /** What opens sockets. The platform's by default. */
  WebSocket?: new (url: string) => LiveSocket;
  /**
   * Called when the server refuses the client for good. After 101, 104, 126 and 127 let the user log
   * in again; `setAccessToken` continues.
   */
  onSessionOver?: (error: LiveError) => void;
}

/** Follows queries over one socket. It is open while queries are followed, and some seconds longer. */
export class LiveClient {
  constructor(options?: LiveClientOptions);
  readonly state: LiveState;
  /** Calls a listener with the state: now, and after each change. */
  readonly subscribe: (listener: (state: LiveState) => void) => Unsubscribe;
  /** Returns a query, which is followed as soon as somebody listens. */
  query<R = LiveRecord>(parameters: LiveParameters, options?: LiveOptions<R>): LiveQuery<R>;
  /**
   * Continues as another user: everything is forgotten, and what is followed is asked anew. With
   * null, nobody is signed in: the socket is closed until there is another token.
   */
  setAccessToken(token: string | null | undefined): void;
  /**
   * Ends a pause, or finds out whether the connection still works. Called by itself when a page is
   * shown again or its network is back. React Native calls it when the app is active again.
   */
  readonly wake: () => void;
  /** Closes all queries and the socket at once. */
  close(): void;
}
