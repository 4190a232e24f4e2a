// A model of the server's side of docs/API.md, "Live queries": what it may send, in any legal order.

/** Numbers that look random and are the same for the same seed. */
export class Dice {
  #state;

  constructor(seed) {
    this.#state = (seed * 2654435761 + 1) >>> 0 || 1;
  }

  below(bound) {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % bound;
  }

  pick(among) {
    return among[this.below(among.length)];
  }

  /** True once in so many times. */
  once(times) {
    return this.below(times) === 0;
  }

  shuffle(items) {
    for (let at = items.length - 1; at > 0; at -= 1) {
      const other = this.below(at + 1);
      [items[at], items[other]] = [items[other], items[at]];
    }
    return items;
  }
}

const USERS = ['ada', 'ben'];
const NUM_IDS = 8;

/** What the log says: the records after each event, who may read them, and which events changed rights. */
export class Log {
  timeline = 't0';
  #numTimelines = 0;
  /** By position: records by id, `{ n, v, readers }`, and how many may be seen in general, `floor`. */
  states = [{ records: new Map(), floors: { ada: 0, ben: 0 }, isRights: false }];
  /** Those of timelines that were given up. */
  #past = [];

  constructor(dice) {
    this.dice = dice;
  }

  get head() {
    return this.states.length - 1;
  }

  /** Something happens. */
  act() {
    const { dice } = this;
    const { records, floors } = this.states.at(-1);
    const next = { records: new Map(records), floors: { ...floors }, isRights: dice.once(12) };
    const id = `note/${dice.below(NUM_IDS)}`;
    if (next.isRights) next.floors[dice.pick(USERS)] = dice.below(4);
    else if (dice.once(4)) next.records.delete(id);
    else {
      // The position makes each version another.
      const readers = USERS.filter(() => !dice.once(5));
      next.records.set(id, { n: dice.below(10), v: this.states.length, timeline: this.timeline, readers });
    }
    this.states.push(next);
  }

  /** The log is put back to an earlier state; other things happen from there on. */
  putBack() {
    const kept = this.dice.below(this.states.length) + 1;
    this.#past.push(this.states);
    this.states = this.states.slice(0, kept);
    this.timeline = `t${(this.#numTimelines += 1)}`;
  }

  mayRead(user, id, position) {
    const { records, floors } = this.states[position];
    const it = records.get(id);
    return it !== undefined && it.readers.includes(user) && it.n >= floors[user];
  }

  /** Returns the result of a query, which asks for an `n` of at most `most`. */
  view(user, most, position, states = this.states) {
    const { records, floors } = states[position];
    const found = [...records].filter(
      ([, { n, readers }]) => n <= most && n >= floors[user] && readers.includes(user)
    );
    return new Map(found.map(([id, { n, v, timeline }]) => [id, { _id: id, _type: 'record', n, v, timeline }]));
  }

  /** Returns the results at a position in all timelines that have it. */
  views(user, most, position) {
    const all = [...this.#past, this.states].filter((states) => position < states.length);
    return all.map((states) => this.view(user, most, position, states));
  }

  hadRightsChanged(from, until) {
    return this.states.slice(from + 1, until + 1).some(({ isRights }) => isRights);
  }

  /** Returns the position of the last deletion of a record after `from`; `from` if there is none. */
  lastDeletion(id, from) {
    for (let at = this.head; at > from; at -= 1) {
      if (this.states[at - 1].records.has(id) && !this.states[at].records.has(id)) return at;
    }
    return from;
  }

  /** Returns the ids of records that an event after `from` is about. */
  touched(from, until) {
    const ids = new Set();
    for (let at = from + 1; at <= until; at += 1) {
      const [before, after] = [this.states[at - 1].records, this.states[at].records];
      for (const id of [...before.keys(), ...after.keys()]) if (before.get(id) !== after.get(id)) ids.add(id);
    }
    return ids;
  }
}

/** A subscription, from its beginning to its end. `say` sends a frame. */
export class Subscription {
  /** Up to here everything was said; null before the beginning. */
  #said = null;

  constructor(log, { user, most, from, timeline }, say) {
    Object.assign(this, { log, user, most, from, timeline, say });
  }

  get dice() {
    return this.log.dice;
  }

  #view(position) {
    return this.log.view(this.user, this.most, position);
  }

  /** Says what is new, up to the head of the log or not. Returns whether the query is still followed. */
  advance() {
    const { log, dice } = this;
    if (this.#said === null) return this.#begin();
    if (this.#said === log.head) return true;
    const next = this.#said + 1;
    if (log.states[next].isRights) {
      // The difference can include what has happened since.
      this.#differ(next + dice.below(log.head - next + 1));
    } else {
      this.#tell(next);
    }
    return true;
  }

  #begin() {
    const { log, dice, from } = this;
    if (dice.once(6)) {
      this.say({ event: 'error', error: { code: 10000, message: 'busy', info: { retry_after_ms: 1 + dice.below(3000) } } });
      return false;
    }
    const isExact = from !== undefined && this.timeline === log.timeline && from <= log.head;
    if (from === undefined) this.#result();
    else if (!isExact || log.hadRightsChanged(from, log.head) || dice.once(4)) {
      this.say({ event: 'reset', reason: 'x' });
      this.#result();
    } else this.#replay(from);
    return true;
  }

  #result() {
    const { log, dice } = this;
    const records = dice.shuffle([...this.#view(log.head).values()]);
    while (records.length) this.say({ event: 'result', records: records.splice(0, 1 + dice.below(4)) });
    this.#ready(log.head);
  }

  #ready(position) {
    this.#said = position;
    this.say({ event: 'ready', position, timeline: this.log.timeline });
  }

  /** Says what was missed. */
  #replay(from) {
    const { log, dice, user } = this;
    const until = log.head;
    const touched = [...log.touched(from, until)];
    // Of records that are gone or hidden only this is said, and before all else, even of those that the
    // query never found. Another record under the id of a deleted one is a new one.
    const since = new Map(touched.map((id) => [id, log.mayRead(user, id, until) ? log.lastDeletion(id, from) : until]));
    const gone = touched.filter((id) => since.get(id) > from && (log.mayRead(user, id, from) || dice.once(2)));
    for (const id of dice.shuffle(gone)) this.say({ event: 'leave', record: { _id: id, _type: 'record' } });
    for (let at = from + 1; at <= until; at += 1) {
      for (const { event, record } of this.#changes(at - 1, at)) {
        if (at <= since.get(record._id)) continue;
        // If the client was cut off while it came back, what enters can also be said to have changed.
        const isChange = event === 'enter' && dice.once(4);
        this.say({ event: isChange ? 'change' : event, record, position: at });
      }
    }
    this.#ready(until);
  }

  /** Tells an event. */
  #tell(position) {
    this.#said = position;
    for (const frame of this.#changes(position - 1, position)) this.say({ ...frame, position });
  }

  /** Tells a change of rights. */
  #differ(position) {
    const changes = this.dice.shuffle(this.#changes(this.#said, position));
    this.#said = position;
    changes.forEach(this.say);
    if (changes.length) this.#ready(position);
  }

  #changes(from, until) {
    const [before, after] = [this.#view(from), this.#view(until)];
    const changes = [];
    for (const [id, record] of after) {
      if (!before.has(id)) changes.push({ event: 'enter', record });
      else if (before.get(id).v !== record.v) changes.push({ event: 'change', record });
    }
    for (const id of before.keys()) {
      if (!after.has(id)) changes.push({ event: 'leave', record: { _id: id, _type: 'record' } });
    }
    return changes;
  }
}
