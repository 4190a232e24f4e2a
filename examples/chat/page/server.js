// What a client says to the server: actions, files, and listening.

/** An answer that says no: `code` and `message` are the server's. */
export class Refusal extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

export class Server {
  constructor(apiKey) {
    this.apiKey = apiKey;
    this.token = null;
  }

  /** Runs an action. Throws a Refusal, or a TypeError when the network is away. */
  async call(action, body) {
    const headers = { 'Content-Type': 'application/json', 'X-Skygear-API-Key': this.apiKey };
    if (this.token) headers['X-Skygear-Access-Token'] = this.token;
    const path = `/${action.replaceAll(':', '/')}`;
    const response = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) });
    const answer = await response.json();
    if (answer.error) throw new Refusal(answer.error);
    return answer.result;
  }

  /** Runs one of the plugin's. */
  ask(name, args = {}) {
    return this.call(name, { args });
  }

  /** Saves one record. */
  async save(record) {
    const [saved] = await this.call('record:save', { records: [record] });
    if (saved._type === 'error') throw new Refusal(saved);
    return saved;
  }

  query(type, predicate, order, limit) {
    const sort = [[field('_created_at'), order]];
    return this.call('record:query', { record_type: type, predicate, sort, limit });
  }

  /** Sends a file; returns the value for a record's field. */
  async upload(file) {
    const type = file.type || 'application/octet-stream';
    const { asset, 'post-request': request } = await this.call('asset:put', {
      filename: file.name, 'content-type': type, 'content-size': file.size,
    });
    const form = new FormData();
    for (const [name, value] of Object.entries(request['extra-fields'] ?? {})) form.set(name, value);
    form.set('file', file);
    const headers = { 'X-Skygear-API-Key': this.apiKey };
    const response = await fetch(request.action, { method: 'POST', headers, body: form });
    if (!response.ok) throw new Error(`the file was not taken: ${response.status}`);
    return { $type: 'asset', $name: asset.$name };
  }
}

export const field = (name) => ({ $type: 'keypath', $val: name });
export const reference = (id) => ({ $type: 'ref', $id: id });
export const date = (text) => ({ $type: 'date', $date: text });
