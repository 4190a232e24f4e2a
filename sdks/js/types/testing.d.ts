/** Runs a plugin in tests, without a server. */

import type {
  Context,
  Delivery,
  HttpHeaders,
  Plugin,
  Principal,
  Record,
  RequestOptions,
  SkygearResponse
} from './index.js';

export interface AskOptions {
  /** The user who asks. */
  userId?: string;
  context?: Context;
  timeoutMs?: number;
  delivery?: Delivery | null;
}

/** Stands in for the server: asks the plugin, and answers its calls as the test says. */
export class PluginTester {
  constructor(plugin: Plugin);
  /** The payloads of the calls that the plugin made. */
  readonly calls: { action: string; [name: string]: any }[];
  /** What the plugin published. */
  readonly published: { channels: string[]; data: any }[];
  /** How often the plugin reported progress on a delivery. */
  readonly numProgress: number;
  /** Sets the answer to an action: a result, an error, or a function of the payload. */
  onAction(action: string, answer: unknown): void;
  /** Answers a call of the plugin. */
  call(payload: object, options?: RequestOptions): Promise<{ status: number; body: any }>;
  /** Sends the events of a start; returns the points as the server receives them. */
  start(config?: object): Promise<any>;
  event(name: string, param?: object): Promise<any>;
  lambda(name: string, args?: readonly unknown[] | object, options?: AskOptions): Promise<any>;
  request(
    method: string,
    url: string,
    options?: AskOptions & {
      body?: string | Uint8Array;
      headers?: HttpHeaders | Headers | { [name: string]: string | readonly string[] };
    }
  ): Promise<SkygearResponse>;
  /** Runs the hooks that run before a save; returns what would be stored. */
  beforeSave(record: Record, original?: Record | null, options?: AskOptions): Promise<Record>;
  afterSave(record: Record, original?: Record | null, options?: AskOptions): Promise<void>;
  beforeDelete(record: Record, options?: AskOptions): Promise<void>;
  afterDelete(record: Record, options?: AskOptions): Promise<void>;
  /** Runs a timer now. */
  runTimer(name: string): Promise<void>;
  /** Asks an auth provider who a user is. */
  login(id: string, authData: object): Promise<Principal>;
  /** Sends any request; returns its result in JSON form. */
  ask(kind: string, name: string, param: unknown, options?: AskOptions): Promise<any>;
}
