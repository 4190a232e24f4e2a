import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ids, listen, note, start } from './stub.js';

const NOTES = { record_type: 'note' };
const READY = { event: 'ready', timeline: 't' };

/** Starts a client that follows a query; `say` are frames of its present subscription. */
function follow(t, options) {
  const server = start(t);
  const query = server.client.query(NOTES, options);
  const heard = listen(query);
  server.socket.open();
  const say = (...frames) => {
    const { id } = server.socket.last;
    server.socket.say(...frames.map((frame) => ({ id, ...frame })));
    server.pass();
  };
  const lose = () => {
    server.socket.end();
    server.pass();
  };
  const back = () => {
    server.client.wake();
    server.socket.open();
    return server.socket.last;
  };
  return { ...server, query, heard, say, lose, back, latest: () => server.socket };
}

test('a result is shown when it is complete', (t) => {
  const { query, heard, say } = follow(t);
  assert.deepEqual(query.snapshot(), { records: [], isReady: false, isStale: true, error: null, position: null });
  say({ event: 'result', records: [note(2), note(1)] }, { event: 'result', records: [note(3)] });
  assert.equal(heard.snapshots.length, 1);
  say({ ...READY, position: 7 });
  const { records, ...state } = query.snapshot();
  assert.deepEqual(records, [note(2), note(1), note(3)]);
  assert.deepEqual(state, { isReady: true, isStale: false, error: null, position: 7 });
  assert.deepEqual(heard.changes, [{ entered: records, changed: [], left: [] }]);
  assert.equal(heard.snapshots.length, 2);
});

test('an empty result is one, too', (t) => {
  const { query, say } = follow(t);
  say({ ...READY, position: 7 });
  assert.deepEqual([query.snapshot().isReady, ids(query.snapshot())], [true, '']);
});

test('what arrives together is told together', (t) => {
  const { query, heard, say } = follow(t);
  say({ event: 'result', records: [note(1), note(2)] }, { ...READY, position: 7 });
  const before = query.snapshot();
  say(
    { event: 'enter', position: 8, record: note(3) },
    { event: 'change', position: 9, record: note(1, { stars: 2 }) },
    { event: 'leave', position: 9, record: note(2) },
    { event: 'enter', position: 10, record: note(4) },
    { event: 'leave', position: 11, record: note(4) }
  );
  assert.equal(heard.snapshots.length, 3);
  assert.deepEqual(query.snapshot().records, [note(1, { stars: 2 }), note(3)]);
  assert.equal(query.snapshot().position, 11);
  assert.deepEqual(heard.changes[1], { entered: [note(3)], changed: [note(1, { stars: 2 })], left: [note(2)] });
  assert.equal(ids(before), '1 2');
});

test('a snapshot is frozen, and the same until something changes', (t) => {
  const { query, say, lose, back } = follow(t);
  say({ event: 'result', records: [note(1)] }, { ...READY, position: 7 });
  const snapshot = query.snapshot();
  assert.equal(query.snapshot(), snapshot);
  assert(Object.isFrozen(snapshot) && Object.isFrozen(snapshot.records));
  lose();
  assert.equal(query.snapshot().isStale, true);
  back();
  say({ ...READY, position: 7 });
  assert.notEqual(query.snapshot(), snapshot);
  assert.equal(query.snapshot().records, snapshot.records);
});

test('a difference without positions counts when it is complete', (t) => {
  const { query, heard, say } = follow(t);
  say({ event: 'result', records: [note(1), note(2)] }, { ...READY, position: 7 });
  say({ event: 'leave', record: note(1) }, { event: 'enter', record: note(3) });
  assert.equal(ids(query.snapshot()), '1 2');
  say({ event: 'change', record: note(2, { stars: 1 }) }, { ...READY, position: 9 });
  assert.equal(ids(query.snapshot()), '2 3');
  assert.equal(heard.snapshots.length, 3);
});

test('half a difference is dropped when the connection is lost', (t) => {
  const { query, say, lose, back } = follow(t);
  say({ event: 'result', records: [note(1), note(2)] }, { ...READY, position: 7 });
  say({ event: 'leave', record: note(1) });
  lose();
  const { from, timeline } = back();
  assert.deepEqual([from, timeline], [7, 't']);
  assert.equal(ids(query.snapshot()), '1 2');
  say({ ...READY, position: 9 });
  assert.equal(ids(query.snapshot()), '1 2');
});

test('what was missed is shown when all of it is there', (t) => {
  const { query, heard, say, lose, back } = follow(t);
  say({ event: 'result', records: [note(1), note(2)] }, { ...READY, position: 7 });
  lose();
  back();
  say({ event: 'leave', record: note(1) }, { event: 'leave', record: note(9) });
  say({ event: 'enter', position: 8, record: note(3) });
  const { position, isStale } = query.snapshot();
  assert.deepEqual([ids(query.snapshot()), position, isStale], ['1 2', 7, true]);
  // Lost again: it continues after the last position, with what belongs to it.
  lose();
  assert.equal(back().from, 8);
  assert.equal(ids(query.snapshot()), '1 2');
  say({ event: 'change', position: 9, record: note(4) }, { ...READY, position: 10 });
  assert.equal(ids(query.snapshot()), '2 3 4');
  assert.deepEqual(heard.changes[1], { entered: [note(3), note(4)], changed: [], left: [note(1)] });
});

test('a reset brings the result anew', (t) => {
  const { query, heard, say, lose, back } = follow(t);
  say({ event: 'result', records: [note(1), note(2), note(3)] }, { ...READY, position: 7 });
  const [, two] = query.snapshot().records;
  lose();
  back();
  say({ event: 'reset', reason: 'too old' }, { event: 'result', records: [note(4)] });
  assert.equal(ids(query.snapshot()), '1 2 3');
  assert.equal(query.snapshot().position, 7);
  // Lost in the middle, there is nothing to continue from.
  lose();
  assert.equal('from' in back(), false);
  say({ event: 'result', records: [note(4), note(3, { stars: 1 }), note(2)] }, { ...READY, position: 9, timeline: 'u' });
  // What stays keeps its place, and what is equal is the same object.
  assert.equal(ids(query.snapshot()), '2 3 4');
  assert.equal(query.snapshot().records[0], two);
  assert.deepEqual(heard.changes[1], { entered: [note(4)], changed: [note(3, { stars: 1 })], left: [note(1)] });
  lose();
  const { from, timeline } = back();
  assert.deepEqual([from, timeline], [9, 'u']);
});

test('a reset can come at any time', (t) => {
  const { query, say } = follow(t);
  say({ event: 'result', records: [note(1)] }, { ...READY, position: 7 });
  say({ event: 'leave', record: note(1) }, { event: 'reset', reason: 'changed' });
  assert.deepEqual([ids(query.snapshot()), query.snapshot().isStale], ['1', true]);
  say({ event: 'result', records: [note(1), note(2)] }, { ...READY, position: 9 });
  assert.deepEqual([ids(query.snapshot()), query.snapshot().isStale], ['1 2', false]);
});

test('records are in the wanted order', (t) => {
  const { query, say } = follow(t, { compare: (a, b) => b.stars - a.stars });
  say({ event: 'result', records: [note(1, { stars: 1 }), note(2, { stars: 3 })] }, { ...READY, position: 7 });
  say({ event: 'enter', position: 8, record: note(3, { stars: 2 }) });
  assert.equal(ids(query.snapshot()), '2 3 1');
  say({ event: 'change', position: 9, record: note(1, { stars: 4 }) });
  assert.equal(ids(query.snapshot()), '1 2 3');
});

test('who listens later is told what there is', (t) => {
  const { query, say } = follow(t);
  say({ event: 'result', records: [note(1)] }, { ...READY, position: 7 });
  const late = listen(query);
  assert.deepEqual(late.snapshots, [query.snapshot()]);
  assert.deepEqual(late.changes, [{ entered: [note(1)], changed: [], left: [] }]);
  say({ event: 'leave', position: 8, record: note(1) });
  assert.deepEqual(late.changes[1], { entered: [], changed: [], left: [note(1)] });
});

test('who has left hears nothing, also if it leaves while others are told', (t) => {
  const { query, heard, say } = follow(t);
  const late = listen(query);
  let ends = [];
  const first = query.subscribe(() => ends.forEach((end) => end()));
  const second = [];
  ends = [first, query.subscribe((it) => second.push(it))];
  heard.leave();
  late.leave();
  query.subscribe(() => {});
  say({ ...READY, position: 7 });
  assert.equal(second.length, 1);
  assert.equal(heard.snapshots.length, 1);
});

test('a listener that throws keeps nothing from the others', (t) => {
  const { query, heard, say } = follow(t);
  const thrown = [];
  t.mock.method(globalThis, 'queueMicrotask', (act) => thrown.push(act));
  query.subscribe(() => {
    throw new Error('mine');
  });
  const late = listen(query);
  say({ ...READY, position: 7 });
  assert.deepEqual([heard, late].map(({ snapshots }) => snapshots.at(-1).isReady), [true, true]);
  assert.equal(thrown.length, 2);
  assert.throws(thrown[0], { message: 'mine' });
});

test('what nobody listens to is followed a little longer, and continues later', (t) => {
  const { query, heard, say, socket, pass } = follow(t);
  say({ event: 'result', records: [note(1)] }, { ...READY, position: 7 });
  heard.leave();
  pass(900);
  const again = listen(query);
  pass(5000);
  assert.equal(socket.sent.length, 1);
  again.leave();
  heard.leave();
  pass(1000);
  pass();
  assert.deepEqual(socket.sent[1], { action: 'live:unsubscribe', id: socket.last.id });
  assert.deepEqual([ids(query.snapshot()), query.snapshot().isStale], ['1', true]);
  // A frame that was on its way does not count.
  say({ event: 'enter', position: 8, record: note(2) }, { event: 'end' });
  listen(query);
  assert.equal(socket.last.from, 7);
  assert.notEqual(socket.last.id, socket.sent[0].id);
  socket.say({ id: socket.sent[0].id, event: 'enter', position: 9, record: note(3) });
  say({ event: 'enter', position: 8, record: note(2) }, { ...READY, position: 8 });
  assert.deepEqual([ids(query.snapshot()), query.snapshot().isStale], ['1 2', false]);
});

test('a closed query is ended at once, and tells nobody anything', (t) => {
  const { query, heard, say, socket } = follow(t);
  say({ event: 'result', records: [note(1)] }, { ...READY, position: 7 });
  const { length } = heard.snapshots;
  query.close();
  assert.equal(socket.sent[1].action, 'live:unsubscribe');
  heard.leave();
  assert.equal(heard.snapshots.length, length);
  listen(query);
  assert.equal(socket.last.from, 7);
});

test('what is asked is what was asked for, whatever becomes of the object', (t) => {
  const server = start(t);
  const path = { $type: 'keypath', $val: 'stars' };
  const predicate = ['eq', path, 3];
  const query = server.client.query({ record_type: 'note', predicate, include: undefined });
  predicate.pop();
  // Nothing is asked before somebody listens.
  assert.equal(server.socket, undefined);
  listen(query);
  server.socket.open();
  const { id, ...asked } = server.socket.last;
  assert.deepEqual(asked, { action: 'live:subscribe', record_type: 'note', predicate: ['eq', path, 3] });
  assert.equal(typeof id, 'string');
});

test('whoever hears of a record can sign out, and nobody sees it afterwards', (t) => {
  const { client, query, say } = follow(t);
  const shown = [];
  const kept = new Set();
  query.subscribe(({ records }) => records.length && client.setAccessToken(null));
  query.subscribe((snapshot) => shown.push(ids(snapshot)));
  query.onChange(({ entered, left }) => {
    for (const { _id: id } of left) kept.delete(id);
    for (const { _id: id } of entered) kept.add(id);
  });
  say({ event: 'result', records: [note(1)] }, { ...READY, position: 7 });
  assert.deepEqual([ids(query.snapshot()), shown.at(-1), [...kept]], ['', '', []]);
  assert(!shown.includes('1'));
});

test('who begins to listen is told nothing of another user', (t) => {
  const { client, query, heard, say, pass } = follow(t);
  say({ event: 'result', records: [note(1)] }, { ...READY, position: 7 });
  heard.leave();
  pass(1000);
  client.setAccessToken('ben');
  const changes = [];
  query.onChange((it) => changes.push(it));
  assert.deepEqual(changes, []);
});

test('a listener that is added by another is told what there is once', (t) => {
  const { query, say } = follow(t);
  const changes = [];
  let end;
  query.onChange(() => (end ??= query.onChange((it) => changes.push(it))));
  say({ event: 'result', records: [note(1), note(2)] }, { ...READY, position: 7 });
  assert.deepEqual(changes, [{ entered: [note(1), note(2)], changed: [], left: [] }]);
});

test('an order that fails keeps no record from being shown', (t) => {
  const { query, say } = follow(t, { compare: (a, b) => a.title.localeCompare(b.title) });
  const errors = t.mock.method(console, 'error', () => {});
  say({ event: 'result', records: [note(1, { title: 'b' }), note(2)] }, { ...READY, position: 7 });
  assert.deepEqual([ids(query.snapshot()), query.snapshot().isReady], ['1 2', true]);
  assert.equal(errors.mock.callCount(), 1);
});

test('a record that moves from one query to another is always in one', (t) => {
  const { client, query, say, socket, pass } = follow(t);
  const other = client.query({ record_type: 'note', predicate: ['eq', 1, 1] });
  const seen = [];
  const look = () => seen.push(`${ids(query.snapshot())}|${ids(other.snapshot())}`);
  other.subscribe(look);
  const { id } = socket.last;
  say({ id: '1', event: 'result', records: [note(1)] }, { ...READY, id: '1', position: 7 }, { ...READY, id, position: 7 });
  query.subscribe(look);
  seen.length = 0;
  socket.say({ id: '1', event: 'leave', position: 8, record: note(1) });
  pass(10);
  socket.say({ id, event: 'enter', position: 8, record: note(1) });
  pass(16);
  assert.deepEqual(seen, ['|1', '|1']);
});
