// The live queries of the chat's page, at a server that is slow to answer.
//
//   node socket.mjs FOLDER PAGE
import assert from 'node:assert/strict';
import fs from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [, , folder, page] = process.argv;

/** A socket whose server is this script. */
class Socket {
  static OPEN = 1;
  static all = [];

  constructor() {
    this.readyState = 0;
    this.sent = [];
    Socket.all.push(this);
  }

  open() {
    this.readyState = Socket.OPEN;
    this.onopen();
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  answer(...frames) {
    for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) });
  }

  close() {
    this.readyState = 3;
    this.onclose();
  }
}

Object.assign(globalThis, { WebSocket: Socket, addEventListener() {}, location: { href: 'http://page.test/' } });

// As modules, which they are in the page.
await fs.cp(page, folder, { recursive: true });
await fs.writeFile(path.join(folder, 'package.json'), '{"type": "module"}');
const { LiveQueries } = await import(pathToFileURL(path.join(folder, 'socket.js')));

const live = new LiveQueries('key', 'token', { changed() {}, ended: assert.fail });
const [socket] = Socket.all;
socket.open();
const seen = new Map();
const follower = {
  result(records) {
    seen.clear();
    for (const record of records) seen.set(record._id, record);
  },
  take: (record) => seen.set(record._id, record),
  drop: (id) => seen.delete(id),
  failed: assert.fail,
};
const [one, two, three, four] = [1, 2, 3, 4].map((n) => ({ _id: `message/${n}` }));
const subscribed = () => socket.sent.filter(({ action }) => action === 'live:subscribe').at(-1);

// Somebody enters a room, leaves it and returns before the first answer has arrived.
live.follow('messages', { record_type: 'message' }, follower);
const { id: first } = subscribed();
let place = live.unfollow('messages');
live.follow('messages', { record_type: 'message' }, follower, place);
const { id: second } = subscribed();
socket.answer(
  { id: first, event: 'result', records: [one] },
  { id: first, event: 'ready', position: 5, timeline: 't' },
  { id: first, event: 'end' },
  { id: second, event: 'result', records: [one, two] },
  { id: second, event: 'ready', position: 7, timeline: 't' },
);
assert.deepEqual([...seen.keys()], ['message/1', 'message/2']);

// What is on the way when the room is left does not count as received.
place = live.unfollow('messages');
live.follow('messages', { record_type: 'message' }, follower, place);
const { id: third, from } = subscribed();
assert.equal(from, 7);
socket.answer({ id: second, event: 'enter', position: 9, record: four });
socket.close();
live.connect();
const again = Socket.all.at(-1);
again.open();
assert.deepEqual(again.sent.map((frame) => frame.from), [7]);
assert.notEqual(again.sent[0].id, third);
again.answer(
  { id: again.sent[0].id, event: 'enter', position: 8, record: three },
  { id: again.sent[0].id, event: 'enter', position: 9, record: four },
  { id: again.sent[0].id, event: 'ready', position: 9, timeline: 't' },
);
assert.equal(seen.size, 4);

// An error ends one query, once.
const failed = [];
live.follow('readers', { record_type: 'reading' }, { ...follower, failed: (error) => failed.push(error.code) });
const { id } = again.sent.at(-1);
again.answer({ id, event: 'error', error: { code: 108 } }, { id, event: 'error', error: { code: 108 } });
assert.deepEqual(failed, [108]);
assert.equal(live.unfollow('readers'), undefined);

// If the error passes, the query is asked again after the time that it names, from where it was.
const later = [];
globalThis.setTimeout = (then, pause) => later.push({ then, pause });
const messages = again.sent[0].id;
const passing = { code: 10002, info: { retry_after_ms: 1000 } };
again.answer({ id: messages, event: 'error', error: passing });
assert.equal(later.length, 1);
assert(later[0].pause >= 1000);
later.pop().then();
assert.equal(again.sent.at(-1).from, 9);
assert.notEqual(again.sent.at(-1).id, messages);
// Not if somebody has left the room meanwhile, or the socket has asked again.
again.answer({ id: again.sent.at(-1).id, event: 'error', error: passing });
assert.equal(live.unfollow('messages').from, 9);
let { length } = again.sent;
later.pop().then();
assert.equal(again.sent.length, length);
live.follow('messages', { record_type: 'message' }, follower);
again.answer({ id: again.sent.at(-1).id, event: 'error', error: passing });
const { then } = later.pop();
again.close();
live.connect();
const last = Socket.all.at(-1);
last.open();
({ length } = last.sent);
then();
assert.equal(last.sent.length, length);
