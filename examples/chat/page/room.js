// The state of a room: its messages, those on their way, who has read and who is typing.

import { Outbox } from './outbox.js';
import { date, field, instant, reference } from './server.js';

const PAGE = 40;
const TYPING_MS = 4000;
const PAUSE_MS = 3000;
const NEWEST_FIRST = [[field('_created_at'), 'desc'], [field('_id'), 'desc']];

export class Room {
  /** `changed` is called whenever there is something new to show. */
  constructor(server, me, record, changed) {
    Object.assign(this, { server, me, changed, id: record._id });
    this.messages = new Map();
    this.outbox = new Outbox(server, { sent: (message) => this.#take(message), changed });
    this.readers = new Map();
    this.typing = new Map();
    this.unread = 0;
    /** The time up to which this person has read it, here or elsewhere. */
    this.readUntil = 0;
    this.hasOlder = false;
    /** What is followed while the room is open: a query's name → the last place that was reported. */
    this.followed = new Map();
    this.update(record);
  }

  update({ title, _created_at: createdAt }) {
    this.title = title;
    this.createdAt = instant(createdAt);
  }

  list() {
    this.sorted ??= [...this.messages.values()].sort((a, b) => a.at - b.at || (a._id < b._id ? -1 : 1));
    return this.sorted;
  }

  get last() {
    return this.list().at(-1);
  }

  // -- while it is open ----------------------------------------------------------

  /** Follows the room from where it was left; the first time, from the newest messages on. */
  async enter(live) {
    this.live = live;
    this.#follow('readers', { record_type: 'reading', predicate: this.#here() }, {
      result: (readings) => { this.readers.clear(); readings.forEach((it) => this.#read(it)); this.changed(); },
      take: (reading) => { this.#read(reading); this.changed(); },
      drop: () => {},
      failed: console.warn,
    });
    if (this.since) this.#followMessages();
    else await this.#load(live);
  }

  leave() {
    for (const name of this.followed.keys()) {
      this.followed.set(name, this.live.unfollow(`${name} of ${this.id}`));
    }
    this.live = null;
  }

  #follow(name, query, follower) {
    this.live.follow(`${name} of ${this.id}`, query, follower, this.followed.get(name));
    this.followed.set(name, undefined);
  }

  async #load(live) {
    const found = await this.server.insist(() => this.#page());
    this.messages.clear();
    this.#older(found);
    // From the oldest message that is shown; everything, if there is none.
    this.since = ['gte', field('_created_at'), date(found.at(-1)?._created_at ?? '1970-01-01T00:00:00Z')];
    // The user may have left the room meanwhile.
    if (this.live === live) this.#followMessages();
  }

  #followMessages() {
    const isSince = ({ at }) => at >= instant(this.since[2].$date);
    this.#follow('messages', { record_type: 'message', predicate: this.#here(this.since) }, {
      result: (messages) => {
        // The result is complete: what is not in it has been deleted.
        const ids = new Set(messages.map(({ _id: id }) => id));
        for (const message of this.list()) if (isSince(message) && !ids.has(message._id)) this.#drop(message._id);
        messages.forEach((message) => this.#take(message));
      },
      take: (message) => this.#take(message),
      drop: (id) => this.#drop(id),
      failed: (error) => {
        // There are more messages than the server follows: start again from the newest.
        console.warn(error.message);
        const { live } = this;
        this.since = null;
        setTimeout(() => { if (live && live === this.live) this.#load(live).catch(console.warn); }, PAUSE_MS);
      },
    });
  }

  /** Loads the page before the oldest message that is shown, one page at a time. */
  async loadOlder() {
    if (this.isLoadingOlder) return;
    this.isLoadingOlder = true;
    try {
      this.#older(await this.#page(this.oldest));
    } finally {
      this.isLoadingOlder = false;
    }
  }

  #older(found) {
    this.hasOlder = found.length === PAGE;
    this.oldest = found.at(-1) ?? this.oldest;
    found.forEach((message) => this.#take(message));
    this.changed();
  }

  /** Asks for the newest messages before one. Those with the same time are ordered by id. */
  #page(before) {
    const more = before ? [olderThan(before)] : [];
    const asked = { record_type: 'message', predicate: this.#here(...more), sort: NEWEST_FIRST, limit: PAGE };
    return this.server.call('record:query', asked);
  }

  #here(...more) {
    return ['and', ['eq', field('room'), reference(this.id)], ...more];
  }

  // -- messages ------------------------------------------------------------------

  say(text, file) {
    this.outbox.add({ room: reference(this.id), text, file });
  }

  #take(message) {
    // A file's address differs each time: keep the known one, or its picture is loaded again.
    if (this.messages.get(message._id)?._updated_at !== message._updated_at) {
      this.messages.set(message._id, { ...message, at: instant(message._created_at) });
      this.sorted = null;
    }
    this.outbox.remove(message._id);
    this.#typesNoMore(message._ownerID);
    this.changed();
  }

  #drop(id) {
    this.messages.delete(id);
    this.sorted = null;
    this.changed();
  }

  // -- who has read --------------------------------------------------------------

  /** Saves that everything here has been read, one save at a time. */
  async markRead() {
    const { last } = this;
    if (!last || last.at <= this.readUntil || this.isNoting) return;
    this.isNoting = true;
    this.readUntil = last.at;
    const note = {
      _id: `reading/${this.id.replace('room/', '')}-${this.me}`,
      room: reference(this.id),
      until: date(last._created_at),
    };
    await this.server.insist(() => this.server.save(note)).catch(console.warn);
    this.isNoting = false;
    this.changed();
  }

  #read({ _ownerID: user, name, until }) {
    this.readers.set(user, { name, until: instant(until.$date) });
  }

  /** Returns the names of the others who have read a message. */
  readersOf(message) {
    const readers = [...this.readers].filter(([user, { until }]) => user !== this.me && until >= message.at);
    return readers.map(([, { name }]) => name);
  }

  // -- who is typing -------------------------------------------------------------

  /** Handles a hint that somebody is typing. */
  hearTyping(user) {
    if (user === this.me) return;
    clearTimeout(this.typing.get(user)?.timer);
    const timer = setTimeout(() => { this.#typesNoMore(user); this.changed(); }, TYPING_MS);
    this.typing.set(user, { name: this.#nameOf(user), timer });
    this.changed();
  }

  #typesNoMore(user) {
    clearTimeout(this.typing.get(user)?.timer);
    this.typing.delete(user);
  }

  /** A hint carries no trustworthy name: use that of a reader or an author. */
  #nameOf(user) {
    const author = () => this.list().findLast((it) => it._ownerID === user)?.author;
    return this.readers.get(user)?.name ?? author() ?? 'Somebody';
  }
}

function olderThan({ _created_at: time, _id: id }) {
  const at = (operator) => [operator, field('_created_at'), date(time)];
  return ['or', at('lt'), ['and', at('eq'), ['lt', field('_id'), id.replace('message/', '')]]];
}
