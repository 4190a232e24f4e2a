import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';

import { LiveClient } from '../src/index.js';
import { Socket } from './stand-in.js';

const NOTES = { record_type: 'note' };
const [one, two, three] = [1, 2, 3].map((n) => ({ _id: `note/${n}`, n }));
const result = (...records) => ({ event: 'result', records });
const ready = (position) => ({ event: 'ready', position, timeline: 't' });

beforeEach(() => {
  Socket.all = [];
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout'] });
});

const pass = (ms = 1) => mock.timers.tick(ms);

function start(options = {}) {
  return new LiveClient({ url: 'https://app.test', apiKey: 'key', accessToken: 'token', WebSocket: Socket, ...options });
}

/** Answers the last subscription of a socket. */
function tell(socket, ...frames) {
  const { id } = socket.asked();
  socket.tell(...frames.map((frame) => ({ id, ...frame })));
  pass();
}

/** A client with a query that has a result. */
function following(options, ofClient) {
  const client = start(ofClient);
  const query = client.query(NOTES, options);
  const socket = Socket.last.open();
  tell(socket, result(one, two), ready(5));
  return { client, query, socket };
}

const ids = (query) => query.snapshot().records.map(({ _id: id }) => id);

test('a query is asked as the server wants it, and shows its result and what happens to it', async () => {
  const changes = [];
  const { client, query, socket } = following({ onChanges: (it) => changes.push(it) });
  assert.equal(socket.url.href, 'wss://app.test/live?api_key=key&access_token=token');
  assert.deepEqual(socket.asked(), { action: 'live:subscribe', id: '1', ...NOTES });
  assert.equal(client.state, 'live');
  const snapshot = query.snapshot();
  assert.deepEqual(snapshot, { records: [one, two], isReady: true, isStale: false, position: 5 });
  assert(Object.isFrozen(snapshot) && Object.isFrozen(snapshot.records));
  assert.equal(query.snapshot(), snapshot);
  assert.deepEqual(await query.first(), [one, two]);
  assert.deepEqual(changes, [{ entered: [one, two], changed: [], left: [] }]);

  let numCalls = 0;
  const unsubscribe = query.subscribe(() => { numCalls += 1; });
  const newer = { ...two, n: 20 };
  tell(
    socket,
    { event: 'enter', record: three, position: 6 },
    { event: 'change', record: newer, position: 7 },
    { event: 'leave', record: { _id: one._id }, position: 8 },
  );
  assert.equal(numCalls, 1, 'what arrives together is shown together');
  assert.deepEqual(changes[1], { entered: [three], changed: [newer], left: [one] });
  assert.deepEqual(query.snapshot().records, [newer, three]);
  unsubscribe();
  tell(socket, { event: 'leave', record: { _id: three._id }, position: 9 });
  assert.equal(numCalls, 1);
  assert.equal(query.snapshot().position, 9);
});

test('records come in the order that is wanted', () => {
  const { query, socket } = following({ compare: (a, b) => b.n - a.n });
  tell(socket, { event: 'enter', record: three, position: 6 });
  assert.deepEqual(ids(query), ['note/3', 'note/2', 'note/1']);
});

test('after a break it goes on where it was, and the page sees that it is behind', () => {
  const { client, query, socket } = following();
  socket.end();
  pass();
  assert.equal(client.state, 'waiting');
  assert.deepEqual(query.snapshot(), { records: [one, two], isReady: true, isStale: true, position: 5 });
  pass(450);
  const again = Socket.last.open();
  assert.deepEqual(again.asked(), { action: 'live:subscribe', id: '2', ...NOTES, from: 5, timeline: 't' });
  // Late frames of the old socket, and of an id that is not asked any more.
  socket.onmessage({ data: JSON.stringify({ id: '1', event: 'leave', record: one, position: 6 }) });
  again.tell({ id: '1', event: 'leave', record: one, position: 6 });
  tell(again, { event: 'leave', record: two }, { event: 'change', record: three, position: 7 });
  assert.deepEqual(ids(query), ['note/1', 'note/2'], 'it is shown with what belongs to it');
  tell(again, ready(9));
  assert.deepEqual(ids(query), ['note/1', 'note/3']);
  assert.equal(query.snapshot().isStale, false);
});

test('what says the same when it comes again is no change', () => {
  const changes = [];
  const { socket } = following({ onChanges: (it) => changes.push(it) });
  tell(socket, { event: 'reset', reason: 'rights' }, result({ ...one }, three), ready(9));
  assert.deepEqual(changes[1], { entered: [three], changed: [], left: [two] });
});

test('it is tried again and again, at once when the network is back', () => {
  const client = start();
  client.query(NOTES);
  const pauses = [300, 600, 1200, 2400, 4800, 9600, 10_000, 10_000];
  for (const [tries, pause] of pauses.entries()) {
    assert.equal(Socket.all.length, tries + 1);
    Socket.last.end();
    pass(pause / 2 - 1);
    assert.equal(Socket.all.length, tries + 1, `sooner than ${pause / 2}`);
    pass(pause + 2);
    assert.equal(Socket.all.length, tries + 2, `later than ${1.5 * pause}`);
  }
  // One that never opens is given up.
  const { length } = Socket.all;
  pass(15_000);
  assert(Socket.last.isClosed);
  pass(15_000);
  assert.equal(Socket.all.length, length + 1);
});

test('a page that is told of the network connects at once', (t) => {
  const listeners = {};
  globalThis.addEventListener = (name, listener) => { listeners[name] = listener; };
  t.after(() => { delete globalThis.addEventListener; });
  const { client, socket } = following();
  listeners.offline();
  assert(socket.isClosed);
  assert.equal(client.state, 'waiting');
  listeners.online();
  assert.equal(Socket.all.length, 2);
  listeners.online();
  assert.equal(Socket.all.length, 2);
});

test('a connection that is silent is asked, and left if there is no answer', () => {
  const { socket } = following();
  pass(24_000);
  tell(socket, { event: 'enter', record: three, position: 6 });
  pass(24_998);
  assert.equal(socket.asked('live:ping'), undefined, 'it was heard in between');
  pass(1);
  assert.deepEqual(socket.asked('live:ping'), { action: 'live:ping' });
  pass(9_000);
  socket.tell({ event: 'pong', position: 6 });
  pass(25_000);
  assert(!socket.isClosed);
  pass(10_000);
  assert(socket.isClosed);
  pass(450);
  assert.equal(Socket.last.open().asked().from, 6);
});

test('a page that is looked at again asks at once, and a slow network gets more time', (t) => {
  globalThis.document = { visibilityState: 'hidden', addEventListener: (_, it) => { globalThis.shown = it; } };
  t.after(() => { delete globalThis.document; delete globalThis.shown; });
  const { socket } = following();
  globalThis.shown();
  assert.equal(socket.asked('live:ping'), undefined);
  globalThis.document.visibilityState = 'visible';
  globalThis.shown();
  assert.deepEqual(socket.asked('live:ping'), { action: 'live:ping' });
  pass(10_000);
  assert(socket.isClosed);
  globalThis.shown();
  const again = Socket.last.open();
  assert.notEqual(again, socket);
  pass(25_000);
  pass(19_999);
  assert(!again.isClosed, 'it may be a long frame');
  pass(1);
  assert(again.isClosed);
});

test('what the caller changes later is no part of the query', () => {
  const parameters = { record_type: 'note', predicate: ['eq', 1, 1] };
  start().query(parameters);
  parameters.predicate.push('more');
  assert.deepEqual(Socket.last.open().asked().predicate, ['eq', 1, 1]);
});

test('if an error passes, the query is asked again after the time that it names', () => {
  const { client, query, socket } = following();
  const error = { code: 10002, message: 'away', info: { retry_after_ms: 1000 } };
  tell(socket, { event: 'error', error });
  assert.equal(query.snapshot().isStale, true);
  assert.equal(query.snapshot().error, undefined);
  pass(998);
  assert.equal(socket.asked().id, '1');
  pass(1002);
  assert.deepEqual([socket.asked().id, socket.asked().from], ['2', 5]);
  // Not if the socket has asked again meanwhile, or nobody wants it any more.
  tell(socket, { event: 'error', error });
  socket.end();
  pass(450);
  const again = Socket.last.open();
  pass(2000);
  assert.equal(again.sent.length, 1);
  tell(again, { event: 'error', error });
  query.close();
  pass(2000);
  assert.equal(again.sent.length, 1);
  assert.equal(client.state, 'live');
});

test('any other error ends the query, and no other one', async () => {
  const errors = [];
  const { client, query, socket } = following();
  const other = client.query({ record_type: 'page' }, { onError: (it) => errors.push(it) });
  const error = { code: 108, message: 'too many records match' };
  const first = other.first();
  tell(socket, { event: 'error', error });
  assert.deepEqual(other.snapshot(), { records: [], isReady: false, isStale: true, error });
  assert.deepEqual(errors, [error]);
  await assert.rejects(first, { message: error.message, error });
  socket.tell({ id: '1', event: 'enter', record: three, position: 6 });
  pass();
  assert.equal(query.snapshot().records.length, 3);
  socket.end();
  pass(450);
  assert.equal(Socket.last.open().sent.length, 1);
});

test('when the session is over, nothing is tried until there is another', () => {
  const over = [];
  const { client, query, socket } = following({}, { onSessionOver: (error) => over.push(error) });
  const error = { code: 104, message: 'token does not exist or it has expired' };
  socket.tell({ event: 'error', error });
  assert.equal(client.state, 'live', 'a message that makes no sense is answered so, too');
  socket.end(1008);
  assert.equal(client.state, 'over');
  assert.deepEqual(over, [error]);
  assert.deepEqual(query.snapshot().error, error);
  const late = client.query({ record_type: 'page' });
  assert.deepEqual(late.snapshot().error, error);
  pass(60_000);
  assert.equal(Socket.all.length, 1);

  client.setAccessToken('another');
  assert.deepEqual(query.snapshot(), { records: [], isReady: false, isStale: true }, 'it was for the other user');
  const again = Socket.last.open();
  assert.equal(again.url.searchParams.get('access_token'), 'another');
  assert.deepEqual(again.sent.map(({ record_type: type, from }) => [type, from]), [['note', undefined], ['page', undefined]]);
  client.setAccessToken('another');
  assert.equal(Socket.all.length, 2);
});

test('the connection ends some time after the last query, and opens with the next', () => {
  const { client, query, socket } = following();
  query.close();
  assert.deepEqual(socket.asked('live:unsubscribe'), { action: 'live:unsubscribe', id: '1' });
  pass(4000);
  const next = client.query({ record_type: 'page' });
  assert.equal(socket.asked().record_type, 'page');
  pass(5000);
  assert(!socket.isClosed);
  next.close();
  next.close();
  pass(5000);
  assert(socket.isClosed);
  assert.equal(client.state, 'idle');
  client.query(NOTES);
  assert.equal(Socket.all.length, 2);
});

test('whoever is closed while he waits is told so', async () => {
  const client = start();
  const first = client.query(NOTES).first();
  client.close();
  await assert.rejects(first, /closed/);
  assert.equal(client.state, 'idle');
  pass(60_000);
  assert.equal(Socket.all.length, 1);
});

test('the state can be followed, and an address may have a path', () => {
  const client = start({ url: 'http://app.test/api/', accessToken: undefined });
  const states = [];
  const unsubscribe = client.subscribe(() => states.push(client.state));
  client.query(NOTES);
  assert.equal(Socket.last.url.href, 'ws://app.test/api/live?api_key=key');
  Socket.last.open();
  Socket.last.end();
  assert.deepEqual(states, ['connecting', 'live', 'waiting']);
  unsubscribe();
  client.close();
  assert.equal(states.length, 3);
});

test('what the server would not take is refused here', () => {
  assert.throws(() => start({ WebSocket: null }), TypeError);
  assert.throws(() => start().query({ predicate: ['eq', 'x'.repeat(1 << 20)] }), RangeError);
  assert.equal(Socket.all.length, 0);
});
