// Every kind of value, saved and read back.
'use strict';

const assert = require('node:assert/strict');
const { Group, once, refused } = require('./harness');
const { person, record, skygear } = require('./world');

const group = new Group('values');
const { ErrorCodes, Geolocation, Reference, Sequence } = skygear;

const app = once(() => person('vera'));
const thing = (fields) => record('value_thing', fields);

/** Saves a field and returns its value as a later reader sees it. */
async function thereAndBack(field, value) {
  const { publicDB } = await app();
  const fresh = thing();
  // The constructor would take apart a date inside an object.
  fresh[field] = value;
  const saved = await publicDB.save(fresh);
  const read = await publicDB.getRecordByID(saved.id);
  assert.deepEqual(saved[field], read[field]);
  return read[field];
}

const PLAIN = {
  text: ['', 'a', 'tab\tline\nquote"\\', '日本語 🚀', 'x'.repeat(100000)],
  number: [0, 1, -1, 1.5, -0.000001, 123456789012, 1e21],
  flag: [true, false],
  list: [[], [1, 'two', [3], { four: 4 }, null, true]],
  object: [{}, { a: { b: [{ c: null }] }, 'with space': 1 }],
};

for (const [field, values] of Object.entries(PLAIN)) {
  group.check(`${field} comes back as it was`, async () => {
    for (const value of values) {
      assert.deepEqual(await thereAndBack(field, value), value);
    }
  });
}

group.check('a date comes back to the millisecond', async () => {
  for (const text of ['1999-12-31T23:59:59.999Z', '1815-12-10T00:00:00.000Z']) {
    const read = await thereAndBack('at', new Date(text));
    assert.ok(read instanceof Date);
    assert.equal(read.toISOString(), text);
  }
});

group.check('a location comes back as a location', async () => {
  const read = await thereAndBack('place', new Geolocation(22.25, 114.125));
  assert.ok(read instanceof Geolocation);
  assert.deepEqual([read.latitude, read.longitude], [22.25, 114.125]);
});

group.check('a reference comes back as a reference, by record and by id', async () => {
  const { publicDB } = await app();
  const target = await publicDB.save(record('value_target', { name: 't' }));
  for (const reference of [new Reference(target), new Reference(target.id)]) {
    const read = await thereAndBack('target', reference);
    assert.ok(read instanceof Reference);
    assert.equal(read.id, target.id);
  }
});

group.check('a reference to nothing is refused', async () => {
  const { publicDB } = await app();
  await publicDB.save(record('value_target', { name: 't' }));
  const dangling = thing({ target: new Reference('value_target/none') });
  await assert.rejects(publicDB.save(dangling), (error) => error._id === dangling.id);
  await assert.rejects(publicDB.getRecordByID(dangling.id), /does not exist/);
});

group.check('a sequence counts up by itself', async () => {
  const { publicDB } = await app();
  const numbered = () => record('value_numbered', { number: new Sequence() });
  const first = await publicDB.save(numbered());
  const second = await publicDB.save(numbered());
  assert.equal(first.number, 1);
  assert.equal(second.number, 2);
  const third = await publicDB.save(record('value_numbered', { text: 'not asked for' }));
  assert.equal(third.number, 3);
});

group.check('a sequence goes on from a number that was set, and has no twins', async () => {
  const { publicDB } = await app();
  await publicDB.save(record('value_counter', { number: new Sequence() }));
  await publicDB.save(record('value_counter', { number: 10 }));
  const next = await publicDB.save(record('value_counter', { number: new Sequence() }));
  assert.equal(next.number, 11);
  await refused(ErrorCodes.Duplicated, publicDB.save(record('value_counter', { number: 10 })));
});

group.check('GeoJSON comes back as it was', async () => {
  const shape = {
    $type: 'geojson',
    $val: { type: 'Polygon', coordinates: [[[0, 0], [0, 2], [2, 2], [2, 0], [0, 0]]] },
  };
  assert.deepEqual(await thereAndBack('area', shape), shape);
});

group.check('typed values inside an object are decoded again', async () => {
  const at = new Date('2020-02-02T02:02:02.000Z');
  const read = await thereAndBack('event', { at, where: new Geolocation(1, 2) });
  assert.equal(read.at.toISOString(), at.toISOString());
  assert.ok(read.where instanceof Geolocation);
});

group.check('typed values inside a list come back as they were sent', async () => {
  const { publicDB } = await app();
  const at = new Date('2020-02-02T02:02:02.000Z');
  const saved = await publicDB.save(thing({ events: [at] }));
  // The SDK decodes typed values in fields and objects, not in lists.
  assert.deepEqual(saved.events, [{ $type: 'date', $date: '2020-02-02T02:02:02.000Z' }]);
});

group.check('an unknown value writes nothing', async () => {
  const { publicDB } = await app();
  const saved = await publicDB.save(thing({ text: 'known' }));
  saved.text = skygear.Record.fromJSON({
    _id: 'x/y',
    price: { $type: 'unknown', $underlying_type: 'money' },
  }).price;
  assert.equal(saved.text.underlyingType, 'money');
  const outcome = await publicDB.save(saved).then(() => null, (error) => error.error || error);
  const read = await publicDB.getRecordByID(saved.id);
  assert.equal(read.text, 'known', JSON.stringify(outcome));
});

group.check('a location off the globe never leaves the application', async () => {
  assert.throws(() => new Geolocation(91, 0), /Latitude/);
  assert.throws(() => new Geolocation(0, 181), /Longitude/);
});

module.exports = group;
