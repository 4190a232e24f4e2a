// A client's requests to the server: actions, records, files.

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;
/** The plugin is away, is starting, or takes too long. */
const PASSING = [118, 119, 121, 122];
/** Nobody is signed in, the token is no longer valid, or the user is locked out. */
const SIGNED_OUT = [101, 104, 127];

/** An answer that rejects the request; `code` and `message` are the server's. */
export class Refusal extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }

  get isSessionOver() {
    return SIGNED_OUT.includes(this.code);
  }
}

/** No answer, or one that may change later: the network, the server or its plugin is away. */
export class Away extends Error {}

export class Server {
  /** `ended` is called with a Refusal when the session is over. */
  constructor(apiKey, ended) {
    this.apiKey = apiKey;
    this.ended = ended;
    this.token = null;
    this.pauses = new Set();
  }

  /** Runs an action. Throws a Refusal, or Away. */
  async call(action, body = {}) {
    const headers = { 'Content-Type': 'application/json' };
    if (this.token) headers['X-Skygear-Access-Token'] = this.token;
    const path = `/${action.replaceAll(':', '/')}`;
    try {
      return await this.#post(path, headers, JSON.stringify(body));
    } catch (error) {
      if (this.token && error.isSessionOver) this.ended(error);
      throw error;
    }
  }

  /** Runs one of the plugin's actions. */
  ask(name, args = {}) {
    return this.call(name, { args });
  }

  /** Saves one record. */
  async save(record) {
    const [saved] = await this.call('record:save', { records: [record] });
    if (saved._type === 'error') throw problem(saved);
    return saved;
  }

  /** Sends a file; returns the value for a record's field. */
  async upload(file) {
    const { asset, 'post-request': request } = await this.call('asset:put', {
      filename: file.name,
      'content-type': file.type || 'application/octet-stream',
      'content-size': file.size,
    });
    const form = new FormData();
    for (const [name, value] of Object.entries(request['extra-fields'] ?? {})) form.set(name, value);
    form.set('file', file);
    await this.#post(request.action, {}, form);
    return { $type: 'asset', $name: asset.$name };
  }

  async #post(address, headers, body) {
    headers = { ...headers, 'X-Skygear-API-Key': this.apiKey };
    const response = await fetch(address, { method: 'POST', headers, body }).catch((error) => {
      throw new Away('The server cannot be reached.', { cause: error });
    });
    // A proxy or the file store may answer with something other than JSON.
    const answer = await response.json().catch(() => null);
    if (response.ok && !answer?.error) return answer?.result;
    throw problem(answer?.error ?? { message: `The server says ${response.status}.` }, response.status);
  }

  /** Retries something for as long as it fails with Away. */
  async insist(task) {
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
      try {
        return await task();
      } catch (error) {
        if (!(error instanceof Away)) throw error;
      }
      await new Promise((resolve) => {
        this.pauses.add(resolve);
        setTimeout(resolve, pause);
      });
    }
  }

  /** Ends all pauses, because a connection has come back. */
  wake() {
    this.pauses.forEach((resolve) => resolve());
    this.pauses.clear();
  }
}

function problem(error, status) {
  const isPassing = PASSING.includes(error.code) || status === 429 || status >= 502;
  return isPassing ? new Away(error.message) : new Refusal(error);
}

/** Returns a new id. */
export function newId(type) {
  // Without https there is no randomUUID.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `${type}/${[...bytes].map((it) => it.toString(16).padStart(2, '0')).join('')}`;
}

export const field = (name) => ({ $type: 'keypath', $val: name });
export const reference = (id) => ({ $type: 'ref', $id: id });
export const date = (text) => ({ $type: 'date', $date: text });

/** Converts a server time to a number that can be compared: microseconds. */
export function instant(text) {
  const [, micros] = /\.\d{3}(\d{3})/.exec(text) ?? [];
  return Date.parse(text) * 1000 + Number(micros ?? 0);
}
