/** Runs a plugin in tests, without a server. */

import type {
  Context,
  Delivery,
  HttpHeaders,
  Plugin,
  Principal,
  Record,
  SkygearResponse
} from './index.js';

export interface AskOptions {
  /** In whose name. */
  userId?: string;
  context?: Context;
  timeoutMs?: number;
  delivery?: Delivery | null;
}

/** A server that is not there: it asks the plugin, and answers its calls with what the test says. */
export class PluginTester {
  constructor(plugin: Plugin);
  /** The payloads of the calls that the plugin made. */
  readonly calls: { action: string; [name: string]: any }[];
  /** What the plugin published. */
  readonly published: { channels: string[]; data: any }[];
  /** How often the plugin said that it still works on a delivery. */
  readonly numProgress: number;
  /** Says what an action is answered with: a result, an error, or a function of the payload. */
  onAction(action: string, answer: unknown): void;
  /** Takes a call of the plugin. */
  call(payload: object): Promise<{ status: number; body: any }>;
  /** Sends the events of a start; returns the points, as the server learns of them. */
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
  /** Runs the hooks that a save would run; returns what would be stored. */
  beforeSave(record: Record, original?: Record | null, options?: AskOptions): Promise<Record>;
  afterSave(record: Record, original?: Record | null, options?: AskOptions): Promise<void>;
  beforeDelete(record: Record, options?: AskOptions): Promise<void>;
  afterDelete(record: Record, options?: AskOptions): Promise<void>;
  /** Runs a timer now. */
  runTimer(name: string): Promise<void>;
  /** Asks an auth provider who somebody is. */
  login(id: string, authData: object): Promise<Principal>;
  /** Sends any request; returns its result as it travels. */
  ask(kind: string, name: string, param: unknown, options?: AskOptions): Promise<any>;
}
