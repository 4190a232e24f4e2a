import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  Asset,
  ForeignValue,
  GeoJSON,
  Geolocation,
  Query,
  Record,
  Reference,
  Sequence,
  SkytrailError,
  UnknownValue
} from '../src/index.js';
import { write } from '../src/json.js';
import { decode, encode } from '../src/values.js';

const WIRE = {
  day: { $type: 'date', $date: '2020-01-02T03:04:05.123456789Z' },
  room: { $type: 'ref', $id: 'room/1' },
  place: { $type: 'geo', $lng: 114.1, $lat: 22.3 },
  file: { $type: 'asset', $name: 'a.png', $content_type: 'image/png', $url: 'http://x/a.png' },
  number: { $type: 'seq' },
  odd: { $type: 'unknown', $underlying_type: 'int4range' },
  shape: { $type: 'geojson', $val: { type: 'Point', coordinates: [1, 2] } },
  newer: { $type: 'newer', $what: 1 },
  list: [{ deep: { $type: 'date', $date: '2020-01-02T03:04:05Z' } }],
  plain: null
};
const sent = (value) => JSON.parse(JSON.stringify(encode(value)));

test('values travel both ways', () => {
  const { day, room, place, file, number, odd, shape, newer, list, plain } = decode(WIRE);
  assert.equal(day.getTime(), Date.UTC(2020, 0, 2, 3, 4, 5, 123));
  assert.deepEqual(room, new Reference('room/1'));
  assert.deepEqual(place, new Geolocation(22.3, 114.1));
  assert.equal(file.contentType, 'image/png');
  for (const [value, type] of [
    [file, Asset],
    [number, Sequence],
    [odd, UnknownValue],
    [shape, GeoJSON],
    [newer, ForeignValue],
    [list[0].deep, Date]
  ]) {
    assert.ok(value instanceof type);
  }
  assert.equal(plain, null);
  assert.deepEqual(sent(decode(WIRE)), WIRE);
});

test('a date that was changed is sent as it is now', () => {
  const { day } = decode(WIRE);
  day.setUTCFullYear(2021);
  assert.equal(sent(day).$date, '2021-01-02T03:04:05.123Z');
});

test('a date that no Date can be goes back as it came', () => {
  for (const $date of ['-0001-12-31T23:00:00Z', '+10000-01-01T00:00:00Z', '2016-12-31T23:59:60Z']) {
    const wire = { $type: 'date', $date };
    assert.ok(decode(wire) instanceof ForeignValue, $date);
    assert.deepEqual(sent(decode(wire)), wire);
  }
  assert.throws(() => decode({ $type: 'date', $date: 'soon' }), TypeError);
});

test('what cannot be sent is refused', () => {
  for (const value of [NaN, Infinity, 1n, () => 1, Symbol('x'), Buffer.from('x'), new Date(NaN)]) {
    assert.throws(() => encode({ list: [value] }), TypeError);
  }
  assert.throws(() => new Reference('note'), TypeError);
});

test('what would be sent as an empty object is refused', () => {
  const awaited = /^TypeError: a promise cannot be sent: await it$/;
  for (const promise of [Promise.resolve(1), { then() {} }]) {
    assert.throws(() => encode({ list: [promise] }), awaited);
    assert.throws(() => new Record('note', { promise }).toWire(), awaited);
    assert.throws(() => new Query('note').equalTo('owner', promise).toWire(), awaited);
  }
  assert.throws(() => encode(new RangeError('x')), /^TypeError: an object of type RangeError cannot/);
  assert.throws(() => encode([/x/]), /^TypeError: an object of type RegExp cannot be sent$/);
  // Errors of this package have a form, and `then` may be any other member.
  const refusal = new SkytrailError('no', 102);
  assert.deepEqual(encode({ refusal, then: 1 }), { refusal: { code: 102, message: 'no' }, then: 1 });
});

test('a form is sent as an object, with a list for what comes twice', () => {
  const form = new URLSearchParams('a=1&tag=x&b=&tag=y&tag=z&__proto__=p');
  const expected = '{"a":"1","tag":["x","y","z"],"b":"","__proto__":"p"}';
  assert.equal(JSON.stringify(encode(form)), expected);
  const data = new FormData();
  for (const [name, value] of form) data.append(name, value);
  assert.equal(JSON.stringify(encode(data)), expected);
  assert.deepEqual(encode({ form: new Headers({ 'X-A': 'b' }) }), { form: { 'x-a': 'b' } });
  data.append('file', new Blob(['x']));
  assert.throws(() => encode(data), TypeError);
});

test('a member called __proto__ is a member', () => {
  const odd = JSON.parse('{"__proto__": {"isAdmin": true}}');
  assert.equal(decode(odd).isAdmin, undefined);
  assert.equal(JSON.stringify(encode(decode(odd))), '{"__proto__":{"isAdmin":true}}');
});

const NOTE = {
  _id: 'note/1/2',
  _type: 'record',
  _access: [{ public: true, level: 'read' }],
  _ownerID: 'u1',
  _created_at: '2020-01-02T03:04:05.123456Z',
  _created_by: 'u1',
  _transient: { room: { _id: 'room/1', _type: 'record', name: 'lounge' } },
  _new_member: 1,
  id: 'a field of its own',
  title: 'hi',
  day: WIRE.day
};

test('a record travels both ways, with what this package does not know', () => {
  const note = Record.fromWire(NOTE);
  assert.deepEqual(note.toWire(), NOTE);
  assert.deepEqual([note._id, note.recordType, note.recordID], ['note/1/2', 'note', '1/2']);
  assert.deepEqual([note.id, note.get('id')], ['note/1/2', 'a field of its own']);
  assert.deepEqual([note.title, note.get('title')], ['hi', 'hi']);
  assert.deepEqual(Object.keys(note), ['title', 'day']);
  assert.equal(note.createdAt.getTime(), Date.UTC(2020, 0, 2, 3, 4, 5, 123));
  assert.equal(note.$transient.room.name, 'lounge');
  assert.deepEqual([note.ownerID, note.updatedAt, note.updatedBy], ['u1', null, null]);
});

test('no field takes the place of what the server says, or of a method', () => {
  const members = Object.getOwnPropertyNames(Record.prototype).filter((name) => name[0] !== '_');
  const names = [...members, 'hasOwnProperty', 'valueOf', '$other'];
  const forged = Object.fromEntries(names.map((name) => [name, `forged ${name}`]));
  const wire = { _id: 'page/1', _ownerID: 'u1', _access: [], _created_by: 'u1', ...forged };
  const page = Record.fromWire(wire);
  assert.deepEqual([page.ownerID, page.createdBy, page.access], ['u1', 'u1', []]);
  assert.deepEqual([page.id, page.recordType, page.updatedBy], ['page/1', 'page', null]);
  assert.deepEqual(page.$transient, {});
  assert.deepEqual(Object.keys(page), ['$other']);
  for (const name of names) assert.equal(page.get(name), forged[name]);
  assert.deepEqual(page.toWire(), wire);
  assert.deepEqual(JSON.parse(JSON.stringify(page)), wire);
  page.set('ownerID', 'u2');
  page.set('title', 'hi');
  assert.deepEqual([page.ownerID, page.title, page.get('none')], ['u1', 'hi', undefined]);
  assert.deepEqual(page.toWire(), { ...wire, ownerID: 'u2', title: 'hi' });
  assert.equal(new Record('page/1', { ownerID: 'u2' }).ownerID, null);
  assert.throws(() => page.set('_ownerID', 'u2'), TypeError);
  const odd = Record.fromWire(JSON.parse('{"_id": "page/1", "__proto__": {"_ownerID": "u2"}}'));
  assert.equal(odd.ownerID, null);
});

test('records get ids, and refuse names that belong to the server', () => {
  assert.match(new Record('note')._id, /^note\/[0-9a-f-]{36}$/);
  assert.throws(() => new Record('note', { _ownerID: 'me' }), TypeError);
  assert.throws(() => new Record(''), TypeError);
});

test('access is changed by the names of v1', () => {
  const note = new Record('note/1');
  assert.equal('_access' in note.toWire(), false);
  note.setPublicReadOnly();
  note.setReadWriteAccessForUser(new Record('user/u1'));
  note.setReadOnlyForRole('editor');
  note.setNoAccessForUser('u2');
  assert.deepEqual(note.access, [
    { public: true, level: 'read' },
    { user_id: 'u1', level: 'write' },
    { role: 'editor', level: 'read' }
  ]);
  note.setPublicNoAccess();
  note.setNoAccessForRole('editor');
  assert.deepEqual(note.toWire()._access, [{ user_id: 'u1', level: 'write' }]);
});

test('a list that is set to null lets everybody in', () => {
  const everybody = [{ public: true, level: 'write' }];
  for (const note of [new Record('note/1'), Record.fromWire({ _id: 'note/1', _access: [] })]) {
    note.access = null;
    assert.equal(note.access, null);
    assert.deepEqual(note.toWire()._access, everybody);
    note.access = undefined;
    assert.equal('_access' in note.toWire(), false);
  }
  // One that only came with the record is sent back: the server keeps what it has.
  const note = Record.fromWire({ _id: 'note/1', _access: null });
  assert.deepEqual([note.access, note.toWire()._access], [null, null]);
  note.access = [];
  assert.deepEqual(note.toWire()._access, []);
});

test('what has no end, or is nested too deeply, is refused by name', () => {
  const list = [1];
  list.push({ again: new Map([['list', list]]) });
  const note = new Record('note/1');
  note.self = { note };
  const own = { toJSON: () => [own] };
  const growing = { toJSON: () => ({ more: { toJSON: growing.toJSON } }) };
  for (const value of [list, note, own, new Set([list])]) {
    assert.throws(() => encode(value), /^TypeError: a value that refers to itself cannot be sent$/);
  }
  assert.throws(() => note.toWire(), /refers to itself/);
  assert.throws(() => encode(growing), /^TypeError: nested deeper than 64$/);
  let deep = [];
  for (let level = 0; level < 200_000; level += 1) deep = [deep];
  assert.throws(() => encode(deep), /^TypeError: nested deeper than 64$/);
  // A value that occurs twice side by side is not a cycle, also after a failure.
  const twice = { a: 1 };
  assert.deepEqual(encode([twice, twice, { twice }]), [twice, twice, { twice }]);
  // The `info` of errors is written without encoding.
  const circle = {};
  circle.again = circle;
  assert.throws(() => write({ circle }), /^TypeError: a value that refers to itself cannot be sent$/);
  assert.throws(() => write(deep), /^TypeError: nested deeper than 64$/);
});

test('queries are put together', () => {
  const title = { $type: 'keypath', $val: 'title' };
  const hi = new Query('note').equalTo('title', 'hi');
  assert.deepEqual(hi.toWire(), { record_type: 'note', predicate: ['eq', title, 'hi'] });
  const ho = new Query('note').like('title', 'h%');
  const query = Query.or(hi, ho).notEqualTo('title', null).addDescending('title').limit(3).count();
  assert.deepEqual(query.toWire(), {
    record_type: 'note',
    predicate: [
      'and',
      ['or', ['eq', title, 'hi'], ['like', title, 'h%']],
      ['neq', title, null]
    ],
    sort: [[title, 'desc']],
    limit: 3,
    count: true
  });
});
