/** Headers of requests and responses. */

/**
 * Like the platform's `Headers`, but a value can be any string: many clients send, for example, a
 * Japanese name as UTF-8, and it is read as it was written.
 */
export class HttpHeaders {
  /** By name in lower case. */
  #values = new Map();

  /** Takes other headers, pairs, or an object whose values are strings or lists of them. */
  constructor(headers = {}) {
    const isIterable = typeof headers[Symbol.iterator] === 'function';
    for (const [name, values] of isIterable ? headers : Object.entries(headers)) {
      for (const value of [values].flat()) this.append(name, value);
    }
  }

  append(name, value) {
    this.#values.set(key(name), [...this.#list(name), String(value)]);
  }

  set(name, value) {
    this.#values.set(key(name), [String(value)]);
  }

  delete(name) {
    this.#values.delete(key(name));
  }

  has(name) {
    return this.#values.has(key(name));
  }

  get(name) {
    return this.has(name) ? this.#list(name).join(', ') : null;
  }

  getSetCookie() {
    return [...this.#list('set-cookie')];
  }

  *entries() {
    for (const [name, values] of [...this.#values].sort(([a], [b]) => (a < b ? -1 : 1))) {
      // Cookies cannot be joined with commas, unlike other values.
      if (name !== 'set-cookie') yield [name, values.join(', ')];
      else for (const value of values) yield [name, value];
    }
  }

  *keys() {
    for (const [name] of this) yield name;
  }

  *values() {
    for (const [, value] of this) yield value;
  }

  forEach(visit, self = undefined) {
    for (const [name, value] of this) visit.call(self, value, name, this);
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  /** Returns the headers in JSON form: `x-request-id` as `X-Request-Id`. */
  toWire() {
    const cookies = this.has('set-cookie') ? [['Set-Cookie', this.getSetCookie()]] : [];
    const others = [...this].filter(([name]) => name !== 'set-cookie');
    const wire = others.map(([name, value]) => [canonical(name), [value]]);
    return Object.fromEntries([...wire, ...cookies]);
  }

  #list(name) {
    return this.#values.get(key(name)) ?? [];
  }
}

const key = (name) => String(name).toLowerCase();

const canonical = (name) => name.replace(/(^|-)[a-z]/g, (letters) => letters.toUpperCase());
