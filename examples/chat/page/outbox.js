// Messages on their way to the server, one by one.

import { newId } from './server.js';

export class Outbox {
  /** `sent` is called with each saved message, `changed` when there is something to show. */
  constructor(server, { sent, changed }) {
    Object.assign(this, { server, sent, changed });
    this.entries = new Map();
    this.isSending = false;
  }

  /** Queues a message. Its id is ours, so sending it twice has the same effect as once. */
  add({ id = newId('message'), ...rest }) {
    this.entries.delete(id);
    this.entries.set(id, { id, ...rest, problem: '', isRefused: false });
    this.changed();
    this.#send();
  }

  remove(id) {
    if (this.entries.delete(id)) this.changed();
  }

  get #next() {
    return [...this.entries.values()].find((entry) => !entry.isRefused);
  }

  /** Until a message is answered, nothing overtakes it; a rejected one stays visible. */
  async #send() {
    if (this.isSending) return;
    this.isSending = true;
    for (let entry = this.#next; entry; entry = this.#next) {
      try {
        const message = await this.server.insist(() => this.#try(entry));
        this.entries.delete(entry.id);
        this.sent(message);
      } catch (error) {
        entry.isRefused = true;
        entry.problem = error.message;
      }
      this.changed();
    }
    this.isSending = false;
  }

  async #try(entry) {
    try {
      if (entry.file) entry.attachment ??= await this.server.upload(entry.file);
      const { id, room, text, attachment } = entry;
      return await this.server.save({ _id: id, room, text, ...(attachment && { attachment }) });
    } catch (error) {
      entry.problem = error.message;
      this.changed();
      throw error;
    }
  }
}
