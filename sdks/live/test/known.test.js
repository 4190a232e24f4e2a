import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Known } from '../src/known.js';
import { dice } from './dice.js';

/**
 * A server with the records that match a query at each position. What a client that comes back has
 * missed is told as the server tells it: first what may be told only by id, without a position.
 */
class Model {
  /** By position: id → record. */
  past = [new Map()];

  constructor(dice) {
    this.dice = dice;
  }

  get position() {
    return this.past.length - 1;
  }

  get now() {
    return this.past.at(-1);
  }

  /** Changes one record; returns the frame that tells of it. */
  change() {
    const next = new Map(this.now);
    const id = `note/${this.dice.below(6)}`;
    const position = this.past.length;
    const record = { _id: id, n: position };
    let event = next.has(id) ? 'change' : 'enter';
    if (next.has(id) && this.dice.below(3) === 0) {
      event = 'leave';
      next.delete(id);
    } else {
      next.set(id, record);
    }
    this.past.push(next);
    return { event, record: event === 'leave' ? { _id: id } : record, position };
  }

  /** Changes of rights change several records at one position. */
  difference() {
    const before = this.now;
    const next = new Map();
    for (const [id, record] of before) if (this.dice.below(2)) next.set(id, record);
    const id = `note/${this.dice.below(6)}`;
    next.set(id, { _id: id, n: this.past.length });
    this.past.push(next);
    return this.from(before, next);
  }

  from(before, after) {
    const frames = [];
    for (const id of before.keys()) if (!after.has(id)) frames.push({ event: 'leave', record: { _id: id } });
    for (const [id, record] of after) {
      const event = before.has(id) ? 'change' : 'enter';
      if (before.get(id) !== record) frames.push({ event, record });
    }
    return [...frames, this.ready()];
  }

  ready() {
    return { event: 'ready', position: this.position, timeline: 't' };
  }

  whole() {
    const records = [...this.now.values()];
    const half = this.dice.below(records.length + 1);
    const parts = [records.slice(0, half), records.slice(half)];
    return [...parts.map((part) => ({ event: 'result', records: part })), this.ready()];
  }

  /** Answers a query that is asked. */
  answer({ from }) {
    if (from === undefined) return this.whole();
    if (this.dice.below(4) === 0) return [{ event: 'reset', reason: 'any' }, ...this.whole()];
    // First all that is gone, also if the client cannot know it; then what has become of the others.
    const met = new Set(this.past.slice(from).flatMap((records) => [...records.keys()]));
    const gone = ['note/never', ...met].filter((id) => !this.now.has(id));
    const frames = gone.map((id) => ({ event: 'leave', record: { _id: id } }));
    for (let position = from + 1; position <= this.position; position += 1) {
      const there = ({ record }) => this.now.has(record._id);
      const told = this.from(this.past[position - 1], this.past[position]).slice(0, -1).filter(there);
      if (told.length > 0) told.at(-1).position = position;
      frames.push(...told);
    }
    return [...frames, this.ready()];
  }
}

/** Runs random histories, in which the connection breaks anywhere. */
function follow(seed) {
  const random = dice(seed);
  const model = new Model(random);
  const known = new Known();
  known.begin();
  let queue = model.answer(known.place);
  for (let step = 0; step < 300; step += 1) {
    const number = random.below(12);
    if (number === 0) {
      // What is on the way is lost.
      for (let more = random.below(4); more > 0; more -= 1) model.change();
      known.begin();
      queue = model.answer(known.place);
    } else if (number === 1) {
      queue.push(...model.difference());
    } else if (number < 5) {
      queue.push(model.change());
    } else if (queue.length > 0) {
      known.take(queue.shift());
    }
    if (!known.isWhole) continue;
    const { from } = known.place;
    assert.deepEqual(sorted(known.records), sorted(model.past[from]), `seed ${seed}, step ${step}`);
  }
  for (const frame of queue) known.take(frame);
  assert(known.isWhole && known.isReady);
  assert.deepEqual(sorted(known.records), sorted(model.now), `seed ${seed}`);
}

const sorted = (records) => [...records.values()].sort((a, b) => (a._id < b._id ? -1 : 1));

test('whatever is told, and wherever it breaks, what is known is the result at its position', () => {
  const first = Math.floor(Math.random() * 1e9);
  for (let seed = 1; seed <= 500; seed += 1) follow(seed);
  for (let seed = first; seed < first + 500; seed += 1) follow(seed);
});

test('a difference is whole at its end, and a new result replaces the old one', () => {
  const known = new Known();
  known.begin();
  const tell = (...frames) => frames.map((frame) => { known.take(frame); return known.isWhole; });
  const [one, two] = [{ _id: 'note/1' }, { _id: 'note/2' }];
  const ready = (position) => ({ event: 'ready', position, timeline: 't' });
  assert.deepEqual(tell({ event: 'result', records: [one] }, ready(3)), [false, true]);
  assert.deepEqual(known.place, { from: 3, timeline: 't' });
  const difference = [{ event: 'leave', record: one }, { event: 'enter', record: two }, ready(5)];
  assert.deepEqual(tell(...difference), [false, false, true]);
  assert.deepEqual([...known.records.keys()], ['note/2']);
  assert.deepEqual(tell({ event: 'reset', reason: 'rights' }), [false]);
  assert.deepEqual(known.place, {});
  assert.deepEqual([...known.records.keys()], ['note/2'], 'until there is another');
  assert.deepEqual(tell({ event: 'result', records: [] }, ready(9)), [false, true]);
  assert.equal(known.records.size, 0);
});
