/** HTTP requests that handlers receive, and responses that they return; bodies are bytes. */

import { HttpHeaders } from './headers.js';
import { encode } from './values.js';

/** A request. `body` is a Buffer; `headers` work like the platform's. */
export class HandlerRequest {
  #query;

  constructor({ method, path, queryString = '', headers = {}, body = Buffer.alloc(0) }) {
    this.method = method;
    this.path = path;
    this.queryString = queryString;
    this.headers = new HttpHeaders(headers);
    this.body = Buffer.from(body);
  }

  /** The query's parameters. The last one of a name counts; `searchParams` has all. */
  get query() {
    this.#query ??= Object.fromEntries(new URLSearchParams(this.queryString));
    return this.#query;
  }

  /** The query's parameters as the platform's `URLSearchParams`: `searchParams.getAll('tag')`. */
  get searchParams() {
    return new URLSearchParams(this.queryString);
  }

  /** The path, decoded, and the query as the client sent it. */
  get url() {
    return this.queryString === '' ? this.path : `${this.path}?${this.queryString}`;
  }

  /** Returns the body as a string. */
  text() {
    return this.body.toString('utf8');
  }

  /** Parses the body as JSON. Throws `SyntaxError`. */
  json() {
    return JSON.parse(this.text());
  }

  /** Parses the body as a form's fields. */
  form() {
    return new URLSearchParams(this.text());
  }

  static fromWire({ method, path, query_string: queryString, header, body }) {
    const bytes = Buffer.from(body ?? '', 'base64');
    return new HandlerRequest({ method, path, queryString, headers: header ?? {}, body: bytes });
  }

  toWire() {
    const query = this.queryString === '' ? {} : { query_string: this.queryString };
    return {
      status: 0,
      method: this.method,
      path: this.path,
      ...query,
      header: this.headers.toWire(),
      body: this.body.toString('base64')
    };
  }
}

/** A response with a status, headers, and a body: a string, bytes, or anything that becomes JSON. */
export class SkygearResponse {
  constructor({ statusCode = 200, headers = {}, body = '' } = {}) {
    this.statusCode = statusCode;
    this.headers = new HttpHeaders(headers);
    const [bytes, type] = bytesOf(body);
    this.body = bytes;
    if (type !== null && !this.headers.has('Content-Type')) this.headers.set('Content-Type', type);
  }

  /** Returns a response for whatever a handler returned, including the platform's `Response`. */
  static async of(returned) {
    if (returned instanceof SkygearResponse) return returned;
    if (returned instanceof Response) {
      const { status: statusCode, headers } = returned;
      return new SkygearResponse({
        statusCode,
        headers,
        body: Buffer.from(await returned.arrayBuffer())
      });
    }
    if (returned === undefined) return new SkygearResponse({ statusCode: 204 });
    return new SkygearResponse({ body: returned });
  }

  text() {
    return this.body.toString('utf8');
  }

  json() {
    return JSON.parse(this.text());
  }

  static fromWire({ status, header, body }) {
    const bytes = Buffer.from(body ?? '', 'base64');
    return new SkygearResponse({ statusCode: status, headers: header ?? {}, body: bytes });
  }

  toWire() {
    const { statusCode: status, headers, body } = this;
    return { status, header: headers.toWire(), body: body.toString('base64') };
  }
}

/** Returns the bytes of a body, and their default content type. */
function bytesOf(body) {
  if (body === '') return [Buffer.alloc(0), null];
  if (typeof body === 'string') return [Buffer.from(body), 'text/plain; charset=utf-8'];
  if (body instanceof ArrayBuffer) return bytesOf(new Uint8Array(body));
  if (ArrayBuffer.isView(body)) {
    const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
    return [bytes, body.byteLength > 0 ? 'application/octet-stream' : null];
  }
  return [Buffer.from(JSON.stringify(encode(body))), 'application/json'];
}
