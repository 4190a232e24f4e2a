// What is known of a room: its messages, those that wait to be sent, who has read and who types.

import { Refusal, date, field, reference } from './server.js';

const PAGE = 40;
const TYPING_MS = 4000;
/** Asked for again after a gap: what was saved at the same time may have come in another order. */
const OVERLAP_MS = 5000;

export class Room {
  /** `changed` is called whenever there is something new to show. */
  constructor(server, me, { id, title, unread = 0 }, changed) {
    Object.assign(this, { server, me, id, title, unread, changed });
    this.messages = new Map();
    this.outbox = new Map();
    this.readers = new Map();
    this.typing = new Map();
    this.announced = new Set();
    // All that was said so far, as soon as it is sent.
    this.sent = Promise.resolve();
    this.isLoaded = false;
    this.isFollowed = false;
    this.hasOlder = false;
  }

  get last() {
    return this.list().at(-1);
  }

  list() {
    return [...this.messages.values()].sort((a, b) => (a._created_at < b._created_at ? -1 : 1));
  }

  /** Loads the newest messages, and follows those and all that come. */
  async open(live) {
    const [found, { readers }] = await Promise.all([
      this.#query([], 'desc', PAGE),
      this.server.ask('chat:readers', { room: this.id }),
    ]);
    this.hasOlder = found.length === PAGE;
    found.forEach((message) => this.#take(message));
    readers.forEach((reader) => this.#read(reader));
    this.isLoaded = true;
    this.#follow(live);
    this.changed();
  }

  /** From the oldest message that is shown on. The query goes on by itself after the network was away. */
  #follow(live) {
    const [first] = this.list();
    const since = first ? [['gte', field('_created_at'), date(first._created_at)]] : [];
    const predicate = ['and', ['eq', field('room'), reference(this.id)], ...since];
    this.isFollowed = true;
    live.follow(this.id, { record_type: 'message', predicate }, {
      result: (messages) => {
        // The result is all there is: what is not in it is gone.
        const isSince = ({ _created_at: at }) => !first || Date.parse(at) >= Date.parse(first._created_at);
        const ids = new Set(messages.map(({ _id: id }) => id));
        for (const { _id: id } of this.list().filter(isSince)) if (!ids.has(id)) this.messages.delete(id);
        messages.forEach((message) => this.#take(message));
        this.changed();
      },
      take: (message) => { this.#take(message); this.changed(); },
      drop: (id) => { this.messages.delete(id); this.changed(); },
      failed: (error) => {
        // Then it is asked for what is new, as before there were live queries.
        console.warn(error.message);
        this.isFollowed = false;
        this.catchUp().catch(console.warn);
      },
    });
  }

  async loadOlder() {
    const [first] = this.list();
    const found = await this.#query([['lt', field('_created_at'), date(first._created_at)]], 'desc', PAGE);
    this.hasOlder = found.length === PAGE;
    found.forEach((message) => this.#take(message));
    this.changed();
  }

  /** After every connecting: sends what waits, and asks for what is new where nothing is followed. */
  async catchUp() {
    if (this.isLoaded && !this.isFollowed) {
      let since = this.last && new Date(Date.parse(this.last._created_at) - OVERLAP_MS).toISOString();
      for (;;) {
        const news = since ? [['gte', field('_created_at'), date(since)]] : [];
        const found = await this.#query(news, 'asc', PAGE);
        found.forEach((message) => this.#take(message));
        if (found.length < PAGE || found.at(-1)._created_at === since) break;
        since = found.at(-1)._created_at;
      }
      this.changed();
    }
    for (const entry of this.outbox.values()) await this.#send(entry);
  }

  #query(more, order, limit) {
    const here = ['eq', field('room'), reference(this.id)];
    return this.server.query('message', ['and', here, ...more], order, limit);
  }

  /** Says something, behind what was said before. Its id is ours, so sending it twice is saying it once. */
  async say(text, file) {
    const id = `message/${crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`}`;
    const entry = { id, text, file, said: new Date().toISOString() };
    this.outbox.set(id, entry);
    this.changed();
    const sent = this.sent.then(() => this.#send(entry));
    this.sent = sent.catch(() => {});
    await sent;
  }

  async #send(entry) {
    if (entry.isSending || !this.outbox.has(entry.id)) return;
    entry.isSending = true;
    try {
      if (entry.file && !entry.attachment) entry.attachment = await this.server.upload(entry.file);
      const record = { _id: entry.id, room: reference(this.id), text: entry.text };
      if (entry.attachment) record.attachment = entry.attachment;
      this.#take(await this.server.save(record));
    } catch (error) {
      if (error instanceof Refusal) {
        this.outbox.delete(entry.id);
        throw error;
      }
      // The network is away: it is sent when that is back.
    } finally {
      entry.isSending = false;
      this.changed();
    }
  }

  /** Takes what came on the room's channel. */
  hear(news) {
    if (news.event === 'sent' || news.event === 'edited') {
      const { message } = news;
      // Announced at least once.
      if (news.event === 'sent' && !this.announced.has(message._id) && message._ownerID !== this.me) this.unread += 1;
      this.announced.add(message._id);
      this.typing.delete(message._ownerID);
      // One that is not open is loaded when it is.
      if (this.isLoaded) this.#take(message);
    } else if (news.event === 'read') {
      this.#read(news);
    } else if (news.event === 'typing' && news.user !== this.me) {
      clearTimeout(this.typing.get(news.user)?.timer);
      const forget = () => { this.typing.delete(news.user); this.changed(); };
      this.typing.set(news.user, { name: news.name, timer: setTimeout(forget, TYPING_MS) });
    }
    this.changed();
  }

  #take(message) {
    // The address of a file is another one each time: what is known stays, or its picture is loaded again.
    const known = this.messages.get(message._id);
    if (known?._updated_at !== message._updated_at) this.messages.set(message._id, message);
    this.outbox.delete(message._id);
  }

  #read({ user, name, until }) {
    if (user === this.me) return;
    const known = this.readers.get(user);
    if (!known || known.until < until.$date) this.readers.set(user, { name, until: until.$date });
  }

  /** Notes that everything here has been read. */
  async markRead() {
    const last = this.last;
    if (!last || this.readUntil === last._id) return;
    this.unread = 0;
    this.readUntil = last._id;
    try {
      await this.server.ask('chat:read', { message: last._id });
    } catch {
      this.readUntil = null;
    }
  }

  /** Returns who has read a message, by name. */
  readersOf(message) {
    const others = [...this.readers.values()];
    return others.filter(({ until }) => Date.parse(until) >= Date.parse(message._created_at)).map(({ name }) => name);
  }
}
