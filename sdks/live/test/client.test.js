import assert from 'node:assert/strict';
import { test } from 'node:test';

import { LiveClient, LiveError } from '../src/index.js';
import { ids, listen, note, start } from './stub.js';

const NOTES = { record_type: 'note' };
const ROOMS = { record_type: 'room' };
const failure = (code, info = {}) => ({ name: 'x', code, message: `error ${code}`, info });

/** Starts a client that follows notes, which has its result. */
function follow(t, options) {
  const server = start(t, options);
  const query = server.client.query(NOTES);
  const heard = listen(query);
  server.socket.open();
  answer(server, [note(1)], 7);
  return Object.assign(server, { query, heard });
}

/** Answers the latest subscription. */
function answer(server, records, position) {
  const { id } = server.socket.last;
  server.socket.say({ id, event: 'result', records }, { id, event: 'ready', position, timeline: 't' });
  server.pass();
}

test('one socket is for all queries, while there are any', (t) => {
  const server = start(t);
  const { client, sockets, states } = server;
  assert.equal(client.state, 'idle');
  const queries = [client.query(NOTES), client.query(ROOMS)];
  assert.equal(sockets.length, 0);
  const all = queries.map(listen);
  assert.equal(sockets.length, 1);
  assert.equal(server.socket.url, 'ws://server.test/live?api_key=key&access_token=ada');
  server.socket.open();
  assert.deepEqual(server.socket.asked.map((it) => it.record_type), ['note', 'room']);
  all.forEach(({ leave }) => leave());
  server.pass(1100);
  assert.equal(server.socket.isClosed, false);
  const again = listen(queries[0]);
  server.pass(10_000);
  assert.equal(server.socket.isClosed, false);
  again.leave();
  server.pass(1000);
  server.pass(5000);
  assert.equal(server.socket.isClosed, true);
  assert.equal(sockets.length, 1);
  assert.deepEqual(states, ['idle', 'connecting', 'live', 'idle']);
});

test('addresses', (t) => {
  const urls = [];
  const WebSocket = class {
    constructor(url) {
      urls.push(url);
    }
    close() {}
  };
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const open = (options) => new LiveClient({ WebSocket, ...options }).query(NOTES).subscribe(() => {});
  open({ url: 'https://a.test/app/', apiKey: 'a&b' });
  open({ url: 'ws://a.test' });
  globalThis.location = { href: 'https://page.test/x/y?z' };
  t.after(() => delete globalThis.location);
  open({ apiKey: 'k' });
  open({ url: '/app', apiKey: 'k', accessToken: 'a/b' });
  assert.deepEqual(urls, [
    'wss://a.test/app/live?api_key=a%26b',
    'ws://a.test/live?',
    'wss://page.test/live?api_key=k',
    'wss://page.test/app/live?api_key=k&access_token=a%2Fb'
  ]);
  assert.throws(() => new LiveClient({ url: 'http://a.test', WebSocket: null }), TypeError);
  // Here `localhost:` would be a protocol.
  for (const url of ['localhost:3000', 'ftp://a.test', 'http://']) {
    assert.throws(() => new LiveClient({ url, WebSocket }), { name: 'TypeError', message: /^url / }, url);
  }
});

test('after a break it connects again, after pauses that grow, and asks again with new ids', (t) => {
  const server = follow(t);
  const { sockets, states, query } = server;
  const { id } = server.socket.last;
  server.socket.end(1001);
  server.pass();
  assert.equal(query.snapshot().isStale, true);
  // A frame of the old socket no longer counts.
  sockets[0].say({ id, event: 'leave', position: 8, record: note(1) });
  for (const pause of [500 - 16, 1000, 2000, 4000, 8000, 10_000, 10_000]) {
    server.pass(pause - 1);
    assert(server.socket.isClosed);
    server.pass(1);
    assert(!server.socket.isClosed);
    server.socket.end();
  }
  server.pass(10_000);
  server.socket.open();
  const { last } = server.socket;
  assert.deepEqual([last.from, last.timeline], [7, 't']);
  assert.notEqual(last.id, id);
  assert.equal(ids(query.snapshot()), '1');
  assert.deepEqual(states.slice(0, 6), ['idle', 'connecting', 'live', 'waiting', 'connecting', 'waiting']);
});

test('only a connection that lasts makes the pauses short again', (t) => {
  const server = follow(t);
  const pauseAfter = (openMs) => {
    server.pass(openMs);
    server.socket.end();
    let pause = 0;
    for (; server.socket.isClosed; pause += 100) server.pass(100);
    server.socket.open();
    return pause;
  };
  assert.deepEqual([0, 100, 1900, 5000, 900].map(pauseAfter), [500, 1000, 2000, 500, 1000]);
});

test('a socket that does not open is given up', (t) => {
  const server = start(t);
  listen(server.client.query(NOTES));
  server.pass(10_000);
  assert.equal(server.socket.isClosed, true);
  assert.equal(server.client.state, 'waiting');
  server.pass(500);
  assert.equal(server.sockets.length, 2);
  // What it does now is nobody's business.
  server.sockets[0].onclose({ code: 1006 });
  server.sockets[0].onerror({});
  assert.equal(server.client.state, 'connecting');
});

test('a socket that fails need not close', (t) => {
  const server = start(t);
  listen(server.client.query(NOTES));
  server.socket.onerror({});
  assert.equal(server.client.state, 'waiting');
  server.pass(500);
  server.socket.open();
  // This one will, and say why.
  server.socket.onerror({});
  assert.equal(server.client.state, 'live');
});

test('a socket that has gone silent is given up', (t) => {
  const server = follow(t);
  const [first] = server.sockets;
  server.pass(15_000);
  assert.equal(first.numPings, 0);
  server.pass(15_000);
  assert.equal(first.numPings, 1);
  first.say({ event: 'pong' });
  server.pass(15_000);
  server.pass(15_000);
  assert.equal(first.numPings, 2);
  // Whatever the server says is a sign of life.
  first.say({ id: 'x', event: 'error', error: failure(108) });
  server.pass(15_000);
  server.pass(15_000);
  assert.deepEqual([first.numPings, first.isClosed], [3, false]);
  server.pass(15_000);
  assert.equal(first.isClosed, true);
  server.pass(500);
  server.socket.open();
  // Nothing was on its way, so the next one has as much time. It is asked for the result.
  server.client.wake();
  server.pass(14_999);
  assert.equal(server.socket.isClosed, false);
  server.pass(1);
  assert.equal(server.socket.isClosed, true);
  server.pass(2000);
  server.socket.open();
  // That did not come, and can be a long message: it gets more time.
  server.client.wake();
  server.pass(29_999);
  assert.equal(server.socket.isClosed, false);
  server.pass(1);
  assert.equal(server.socket.isClosed, true);
});

test('silence is noticed as early as before once a server answers quickly again', (t) => {
  const server = follow(t);
  const silence = () => {
    let silentMs = 0;
    for (; !server.socket.isClosed && silentMs < 200_000; silentMs += 5000) server.pass(5000);
    server.pass(10_000);
    server.socket.open();
    return silentMs;
  };
  const pong = () => {
    const { numPings } = server.socket;
    while (server.socket.numPings === numPings) server.pass(1000);
    server.socket.say({ event: 'pong' });
  };
  // A connection that is lost while nothing is on its way says nothing about the network.
  for (let round = 0; round < 5; round += 1) {
    assert.equal(silence(), 45_000);
    answer(server, [note(1)], 7);
  }
  server.socket.end();
  server.pass(10_000);
  server.socket.open();
  assert.deepEqual([silence(), silence()], [30_000, 45_000]);
  answer(server, [note(1)], 7);
  pong();
  pong();
  // Not yet three.
  server.client.wake();
  server.pass(9000);
  assert.equal(server.socket.isClosed, false);
  server.socket.say({ event: 'pong' });
  pong();
  pong();
  pong();
  // Who looks at the page again does not wait long.
  server.client.wake();
  server.pass(5000);
  assert.equal(server.socket.isClosed, true);
});

test('a server that talks but hears nothing is given up', (t) => {
  const server = follow(t);
  const { socket } = server;
  const talk = (frame) => {
    const { id } = server.socket.last;
    server.socket.say({ id, event: 'enter', position: 8, record: note(1) }, ...[frame].filter(Boolean));
    server.pass(15_000);
  };
  for (let round = 0; round < 20; round += 1) talk({ event: 'pong' });
  assert.equal(socket.isClosed, false);
  const before = socket.numPings;
  for (let round = 0; round < 4; round += 1) talk();
  assert.deepEqual([socket.isClosed, socket.numPings - before], [false, 4]);
  talk();
  assert.equal(socket.isClosed, true);
});

test('what a browser says of its network and its page counts', (t) => {
  const page = new EventTarget();
  globalThis.addEventListener = page.addEventListener.bind(page);
  globalThis.removeEventListener = page.removeEventListener.bind(page);
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: 'hidden' });
  t.after(() => ['addEventListener', 'removeEventListener', 'document'].forEach((name) => delete globalThis[name]));
  const server = follow(t);
  const say = (name) => page.dispatchEvent(new Event(name));
  say('offline');
  assert.equal(server.client.state, 'waiting');
  assert.equal(server.sockets[0].isClosed, true);
  say('offline');
  say('online');
  assert.equal(server.client.state, 'connecting');
  assert.equal(server.sockets.length, 2);
  server.socket.open();
  const look = (visibilityState) => {
    Object.assign(globalThis.document, { visibilityState });
    globalThis.document.dispatchEvent(new Event('visibilitychange'));
  };
  look('hidden');
  assert.equal(server.socket.numPings, 0);
  look('visible');
  assert.equal(server.socket.numPings, 1);
  server.socket.end();
  look('visible');
  assert.equal(server.sockets.length, 3);
  server.client.close();
  say('online');
  say('offline');
  look('visible');
  assert.equal(server.sockets.length, 3);
});

test('an error that passes: it is asked again, after the time and from where it was', (t) => {
  const server = follow(t);
  const { query } = server;
  const busy = () => server.socket.say({ id: server.socket.last.id, event: 'error', error: failure(10000, { retry_after_ms: 2000 }) });
  busy();
  server.pass(2999);
  const { isStale, error } = query.snapshot();
  assert.deepEqual([isStale, error], [true, null]);
  assert.equal(server.socket.asked.length, 1);
  server.pass(1);
  assert.equal(server.socket.asked.length, 2);
  assert.equal(server.socket.last.from, 7);
  // Not if the connection was lost, or everybody has left.
  busy();
  server.socket.end();
  server.pass(1000);
  server.socket.open();
  server.pass(5000);
  assert.equal(server.socket.asked.length, 1);
  busy();
  server.query.close();
  server.pass(4000);
  assert.equal(server.sockets.at(-1).sent.length, 1);
});

test('any other error ends the query, once', (t) => {
  const server = follow(t);
  const { query, heard } = server;
  const { id } = server.socket.last;
  const error = { id, event: 'error', error: failure(108, { limit: { name: 'LIVE_MAX_RECORDS', max: 3 } }) };
  server.socket.say(error, error, { id, event: 'enter', position: 9, record: note(9) });
  server.pass();
  const snapshot = query.snapshot();
  assert(snapshot.error instanceof LiveError);
  assert.deepEqual([snapshot.error.code, snapshot.error.message, snapshot.error.info.limit.max], [108, 'error 108', 3]);
  assert.deepEqual([ids(snapshot), snapshot.isReady, snapshot.isStale], ['1', true, true]);
  server.socket.end();
  server.pass(1000);
  server.socket.open();
  // The reason may have passed; as long as nobody knows, the error stays.
  assert.equal(server.socket.asked.length, 1);
  const refuse = () => server.socket.say({ id: server.socket.last.id, event: 'error', error: failure(108) });
  server.pass();
  assert.equal(query.snapshot().error, snapshot.error);
  for (const ask of [query.retry, server.client.wake]) {
    refuse();
    server.pass();
    const before = server.socket.asked.length;
    ask();
    ask();
    assert.equal(server.socket.asked.length, before + 1);
  }
  server.pass();
  assert.equal(query.snapshot().error, snapshot.error);
  refuse();
  server.pass();
  // The next listener asks again, too.
  heard.leave();
  server.pass(1000);
  listen(query);
  assert.equal(server.socket.last.from, 7);
  server.pass();
  assert.equal(query.snapshot().error, null);
});

test('a session that is over ends everything, until there is another', (t) => {
  const over = [];
  const server = follow(t, { onSessionOver: (error) => over.push(error) });
  const { client, query } = server;
  server.socket.say({ event: 'error', error: failure(104) });
  assert.equal(client.state, 'live');
  server.socket.end(1008);
  server.pass(60_000);
  assert.equal(client.state, 'over');
  assert.deepEqual(over.map((it) => [it.code, it instanceof LiveError]), [[104, true]]);
  assert.deepEqual([ids(query.snapshot()), query.snapshot().isStale], ['1', true]);
  client.wake();
  listen(client.query(ROOMS));
  assert.equal(server.sockets.length, 1);
  // The same user can be allowed again.
  client.setAccessToken('ada');
  server.socket.open();
  assert.equal(server.sockets.length, 2);
  assert.deepEqual(server.socket.asked.map((it) => [it.record_type, it.from]), [['note', undefined], ['room', undefined]]);
});

test('other endings are no end of the session', (t) => {
  const over = [];
  const server = follow(t, { onSessionOver: (error) => over.push(error) });
  // Too slow.
  server.socket.end(1008);
  assert.equal(server.client.state, 'waiting');
  server.pass(500);
  server.socket.open();
  // An error about a message, long before that.
  const logged = t.mock.method(console, 'error', () => {});
  server.socket.say({ event: 'error', error: failure(107) }, { event: 'pong' }, { event: 'pong' });
  assert.deepEqual(logged.mock.calls.map((call) => call.arguments), [['live queries: error 107']]);
  server.socket.end(1008);
  assert.equal(server.client.state, 'waiting');
  assert.deepEqual(over, []);
});

test('another user sees nothing of the one before', (t) => {
  const server = follow(t);
  const { client, query, heard } = server;
  const unwatched = client.query(ROOMS);
  const left = listen(unwatched);
  answer(server, [note(5)], 7);
  left.leave();
  server.pass(1100);
  const failed = listen(client.query(ROOMS));
  server.socket.say({ id: server.socket.last.id, event: 'error', error: failure(102) });
  client.setAccessToken('ada');
  assert.equal(server.sockets.length, 1);
  client.setAccessToken('ben');
  assert.deepEqual(heard.snapshots.at(-1), { records: [], isReady: false, isStale: true, error: null, position: null });
  assert.deepEqual(heard.changes.at(-1).left, [note(1)]);
  assert.equal(ids(unwatched.snapshot()), '');
  server.socket.open();
  assert.match(server.socket.url, /access_token=ben$/);
  assert.deepEqual(server.socket.asked.map((it) => [it.record_type, 'from' in it]), [['note', false], ['room', false]]);
  server.pass();
  assert.equal(failed.snapshots.at(-1).error, null);
  // What was on its way does not count.
  server.sockets[0].say({ id: server.sockets[0].sent[0].id, event: 'enter', position: 9, record: note(9) });
  answer(server, [note(2)], 9);
  server.pass();
  assert.equal(ids(query.snapshot()), '');
  listen(unwatched);
  assert.equal('from' in server.socket.last, false);
});

test('with nobody signed in nothing is asked', (t) => {
  const server = start(t, { accessToken: null });
  const { client, sockets } = server;
  listen(client.query(NOTES));
  server.pass(10_000);
  assert.equal(sockets.length, 0);
  client.setAccessToken('ada');
  server.socket.open();
  assert.equal(server.socket.asked.length, 1);
  client.setAccessToken(null);
  client.wake();
  server.pass(60_000);
  assert.deepEqual([client.state, sockets.length, sockets[0].isClosed], ['idle', 1, true]);
  // As everybody.
  client.setAccessToken(undefined);
  assert.equal(server.socket.url, 'ws://server.test/live?api_key=key');
});

test('a query above the limit waits for a place', (t) => {
  const server = follow(t);
  const { client } = server;
  const full = (id) => ({ id, event: 'error', error: failure(108, { limit: { name: 'LIVE_MAX_SUBSCRIPTIONS', max: 1 } }) });
  const room = client.query(ROOMS);
  listen(room);
  server.socket.say(full(server.socket.last.id));
  // Shown only if it lasts: what is no longer needed gives its place away.
  server.pass(1900);
  assert.equal(room.snapshot().error, null);
  server.pass(100);
  server.pass();
  assert.equal(room.snapshot().error.info.limit.name, 'LIVE_MAX_SUBSCRIPTIONS');
  // Whatever the order is after a break.
  server.socket.end();
  server.pass(500);
  server.socket.open();
  assert.deepEqual(server.socket.asked.map((it) => it.record_type), ['note', 'room']);
  server.socket.say(full(server.socket.asked[1].id));
  server.query.close();
  assert.equal(server.socket.last.record_type, 'room');
  assert.equal(server.socket.asked.length, 3);
  answer(server, [], 9);
  assert.deepEqual([room.snapshot().isReady, room.snapshot().error], [true, null]);
  // Also when a query ends by itself.
  const third = client.query(NOTES);
  listen(third);
  server.socket.say(full(server.socket.last.id));
  server.socket.say({ id: server.socket.asked[2].id, event: 'error', error: failure(108) });
  assert.equal(server.socket.last.record_type, 'note');
  assert.equal(server.socket.asked.length, 5);
});

test('a place that becomes free while a query is refused for the lack of it is used', (t) => {
  const server = follow(t);
  const room = server.client.query(ROOMS);
  listen(room);
  const { id } = server.socket.last;
  server.query.close();
  server.socket.say({ id, event: 'error', error: failure(108, { limit: { name: 'LIVE_MAX_SUBSCRIPTIONS', max: 1 } }) });
  answer(server, [], 9);
  assert.equal(server.socket.asked.length, 3);
  assert.equal(room.snapshot().isReady, true);
});

test('a query that is too long is not sent, or not again', (t) => {
  const server = follow(t);
  const long = server.client.query({ record_type: 'note', predicate: ['in', 'x'.repeat(400_000)] });
  listen(long);
  server.pass();
  assert.equal(long.snapshot().error.code, 108);
  assert.equal(server.socket.asked.length, 1);
  // A proxy can accept less.
  const less = server.client.query({ record_type: 'note', predicate: ['in', 'x'.repeat(4000)] });
  const other = server.client.query(ROOMS);
  [less, other].forEach(listen);
  server.socket.end(1009);
  server.pass(500);
  server.socket.open();
  assert.deepEqual(server.socket.asked.map((it) => it.record_type), ['note', 'room']);
  assert.equal(less.snapshot().error.code, 108);
});

test('what cannot be read, or is not known, changes nothing', (t) => {
  const server = follow(t);
  const { id } = server.socket.last;
  server.socket.onmessage({ data: 'no JSON' });
  server.socket.say({ id, event: 'dance', position: 99 }, { id: 'other', event: 'leave', position: 9, record: note(1) });
  server.pass();
  assert.deepEqual([ids(server.query.snapshot()), server.query.snapshot().position], ['1', 7]);
});

test('a closed client can be used again', (t) => {
  const server = follow(t);
  const { client, query } = server;
  const { length } = server.heard.snapshots;
  client.close();
  assert.deepEqual([client.state, server.socket.isClosed], ['idle', true]);
  server.pass(60_000);
  assert.equal(server.sockets.length, 1);
  assert.equal(server.heard.snapshots.length, length);
  listen(query);
  server.socket.open();
  assert.equal(server.socket.last.from, 7);
});

test('a page that has slept for hours continues where it was', (t) => {
  const server = follow(t);
  // No timer ran, and the socket was lost without a word.
  const hours = 8 * 3_600_000;
  t.mock.method(performance, 'now', () => hours);
  server.client.wake();
  server.pass(15_000);
  assert.equal(server.socket.isClosed, true);
  server.pass(500);
  server.socket.open();
  assert.equal(server.socket.last.from, 7);
});

test('whoever hears of a state can change it', (t) => {
  const over = [];
  const server = follow(t, { onSessionOver: (error) => over.push(error) });
  const { client } = server;
  const others = [];
  client.subscribe((state) => state === 'over' && client.setAccessToken('another'));
  client.subscribe((state) => others.push(state));
  server.socket.say({ event: 'error', error: failure(104) });
  server.socket.end(1008);
  assert.deepEqual([client.state, others.at(-1), over.length], ['connecting', 'connecting', 0]);
  assert(server.socket.url.endsWith('another'));
});

test('a query can begin while another one hears that its user has gone', (t) => {
  const server = follow(t);
  const { client, query } = server;
  const other = client.query({ record_type: 'other' });
  let end;
  query.subscribe(({ isReady }) => {
    if (!isReady) end ??= other.subscribe(() => {});
  });
  client.setAccessToken('ben');
  assert.equal(typeof end, 'function');
  server.socket.open();
  const asked = server.socket.asked.map(({ record_type: name }) => name);
  assert.deepEqual(asked.sort(), ['note', 'other']);
  assert.equal(server.sockets.length, 2);
});

test('a server is named by its address', () => {
  const at = (url) => () => new LiveClient({ url, WebSocket: class {} });
  for (const url of ['server.test:80', '/', undefined]) assert.throws(at(url), /url must begin/);
  assert.throws(at('https://server.test/live/'), /without \/live/);
});
