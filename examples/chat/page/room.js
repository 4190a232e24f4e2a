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
    /** Live queries, which are followed while the room is open, and continue where they were left. */
    this.readings = null;
    this.newest = null;
    /** The ids of the messages that the latter had last. */
    this.newestIds = new Set();
    /** Ends what is followed. */
    this.ends = [];
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
    this.readings ??= live.query({ record_type: 'reading', predicate: this.#here() });
    this.ends.push(this.readings.subscribe(({ records }) => {
      this.readers = new Map(records.map((it) => [it._ownerID, { name: it.name, until: instant(it.until.$date) }]));
      this.changed();
    }));
    if (this.newest) this.#followNewest();
    else await this.#load();
  }

  leave() {
    this.live = null;
    for (const end of this.ends.splice(0)) end();
  }

  async #load() {
    const { live } = this;
    const found = await this.server.insist(() => this.#page());
    // The user may have left the room and returned, or only left it.
    if (this.newest) return;
    this.messages.clear();
    this.#older(found);
    // From the oldest message that is shown; everything, if there is none.
    const since = date(found.at(-1)?._created_at ?? '1970-01-01T00:00:00Z');
    const predicate = this.#here(['gte', field('_created_at'), since]);
    this.newest = live.query({ record_type: 'message', predicate });
    this.newestIds = new Set(this.messages.keys());
    if (this.live === live) this.#followNewest();
  }

  #followNewest() {
    const { live, newest } = this;
    this.ends.push(newest.subscribe(({ records, isReady, error }) => {
      if (isReady) this.#show(records);
      if (!error || newest !== this.newest) return;
      // There are more messages than the server follows: start again from the newest.
      console.warn(error.message);
      this.newest = null;
      newest.close();
      setTimeout(() => { if (live === this.live) this.#load().catch(console.warn); }, PAUSE_MS);
    }));
  }

  /** Shows the result of the live query: what is no longer in it has been deleted. */
  #show(records) {
    const ids = new Set(records.map(({ _id: id }) => id));
    for (const id of this.newestIds) if (!ids.has(id)) this.#drop(id);
    this.newestIds = ids;
    records.forEach((message) => this.#take(message));
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
    this.outbox.remove(message._id);
    // A file's address differs each time: keep the known one, or its picture is loaded again.
    if (this.messages.get(message._id)?._updated_at === message._updated_at) return;
    this.messages.set(message._id, { ...message, at: instant(message._created_at) });
    this.sorted = null;
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
