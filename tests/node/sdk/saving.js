// Saves and deletes records: one and many, all or some.
'use strict';

const assert = require('node:assert/strict');
const { Group, once, refused } = require('./harness');
const { application, person, query, record, skygear, sorted, unique } = require('./world');

const group = new Group('saving');
const { ErrorCodes } = skygear;

const ada = once(() => person('ada'));
const ben = once(() => person('ben'));
const note = (fields) => record('saved_note', fields);

/** One of Ada's records that only she can change. */
async function hers(text) {
  const mine = note({ text });
  mine.setPublicReadOnly();
  return (await ada()).publicDB.save(mine);
}

group.check('a new record comes back with all that the server knows', async () => {
  const app = await ada();
  const fresh = note({ text: 'hello' });
  const saved = await app.publicDB.save(fresh);
  const me = app.auth.currentUser._id;
  assert.equal(saved, fresh);
  assert.match(saved.id, /^saved_note\/[0-9a-f-]{36}$/);
  assert.equal(saved.text, 'hello');
  assert.deepEqual([saved.ownerID, saved.createdBy, saved.updatedBy], [me, me, me]);
  assert.ok(Math.abs(saved.createdAt - Date.now()) < 3600000);
  assert.equal(saved.updatedAt.getTime(), saved.createdAt.getTime());
});

group.check('a saved record is found by its id', async () => {
  const app = await ada();
  const saved = await app.publicDB.save(note({ text: 'find me' }));
  const found = await app.publicDB.getRecordByID(saved.id);
  assert.equal(found.id, saved.id);
  assert.equal(found.text, 'find me');
  assert.equal(found.createdAt.getTime(), saved.createdAt.getTime());
});

group.check('an unknown id is an error', async () => {
  const lookup = (await ada()).publicDB.getRecordByID('saved_note/none');
  await assert.rejects(lookup, /saved_note\/none does not exist/);
});

group.check('a chosen id, with a slash and letters of any language', async () => {
  const app = await ada();
  const id = `saved_note/${unique('año')}/日本`;
  await app.publicDB.save(note({ _id: id, text: 'ünïcödé 🚀' }));
  const found = await app.publicDB.getRecordByID(id);
  assert.equal(found.id, id);
  assert.equal(found.text, 'ünïcödé 🚀');
});

group.check('what is not sent stays', async () => {
  const app = await ada();
  const saved = await app.publicDB.save(note({ text: 'a', place: 'b' }));
  const part = note({ _id: saved.id, text: 'changed' });
  const merged = await app.publicDB.save(part);
  assert.equal(merged.place, 'b');
  assert.equal(merged.text, 'changed');
  assert.ok(merged.updatedAt >= saved.createdAt);
  assert.equal(merged.createdAt.getTime(), saved.createdAt.getTime());
});

group.check('null empties a field', async () => {
  const app = await ada();
  const saved = await app.publicDB.save(note({ text: 'a', place: 'b' }));
  saved.place = null;
  const emptied = await app.publicDB.save(saved);
  assert.ok(!('place' in emptied));
  assert.equal(emptied.text, 'a');
  assert.ok(!('place' in (await app.publicDB.getRecordByID(saved.id))));
});

group.check('null for a field that nobody has is harmless', async () => {
  const saved = await (await ada()).publicDB.save(note({ text: 'a', never_seen: null }));
  assert.equal(saved.text, 'a');
});

group.check('many records, answered in order', async () => {
  const app = await ada();
  const all = ['x', 'y', 'z'].map((text) => note({ text }));
  const { savedRecords, errors } = await app.publicDB.save(all);
  assert.deepEqual(savedRecords.map((each) => each.text), ['x', 'y', 'z']);
  assert.deepEqual(savedRecords.map((each) => each.id), all.map((each) => each.id));
  assert.deepEqual(errors, [undefined, undefined, undefined]);
});

group.check('records of several types at once', async () => {
  const app = await ada();
  const { savedRecords } = await app.publicDB.save([
    note({ text: 'n' }),
    record('saved_task', { title: 't' }),
  ]);
  assert.deepEqual(savedRecords.map((each) => each.recordType), ['saved_note', 'saved_task']);
});

group.check('some are refused, the others are saved', async () => {
  const app = await ben();
  const foreign = note({ _id: (await hers('mine')).id, text: 'taken over' });
  const own = [note({ text: 'first' }), note({ text: 'last' })];
  const { savedRecords, errors } = await app.publicDB.save([own[0], foreign, own[1]]);
  assert.deepEqual([savedRecords[0].text, savedRecords[1], savedRecords[2].text], [
    'first',
    undefined,
    'last',
  ]);
  assert.equal(errors[0], undefined);
  assert.equal(errors[1].code, ErrorCodes.PermissionDenied);
  assert.equal(errors[1]._id, foreign.id);
  assert.equal((await app.publicDB.getRecordByID(foreign.id)).text, 'mine');
});

group.check('one refused record rejects', async () => {
  const foreign = note({ _id: (await hers('mine')).id, text: 'taken over' });
  const error = await refused(
    ErrorCodes.PermissionDenied,
    (await ben()).publicDB.save(foreign),
  );
  assert.equal(error._id, foreign.id);
  assert.ok(error.message.length > 0);
});

group.check('an atomic save is all', async () => {
  const app = await ada();
  const pair = [note({ text: 'one' }), note({ text: 'two' })];
  const { savedRecords } = await app.publicDB.save(pair, { atomic: true });
  assert.deepEqual(sorted(savedRecords, 'text'), ['one', 'two']);
});

group.check('an atomic save is nothing when one is refused', async () => {
  const app = await ben();
  const good = note({ text: 'good' });
  const bad = note({ _id: (await hers('mine')).id, text: 'bad' });
  const error = await refused(
    ErrorCodes.AtomicOperationFailure,
    app.publicDB.save([good, bad], { atomic: true }),
  );
  assert.equal(error.info[bad.id].code, ErrorCodes.PermissionDenied);
  await assert.rejects(app.publicDB.getRecordByID(good.id), /does not exist/);
});

group.check('saving needs a user', async () => {
  const save = application().publicDB.save(note({ text: 'who?' }));
  await refused(ErrorCodes.NotAuthenticated, save);
});

group.check('undefined never leaves the application', async () => {
  const app = await ada();
  await assert.rejects(app.publicDB.save(note({ text: undefined })), /undefined/);
  await assert.rejects(app.publicDB.save([note({}), null]), /undefined and null/);
});

group.check('a field keeps its type', async () => {
  const app = await ada();
  await app.publicDB.save(record('saved_typed', { size: 1 }));
  const other = record('saved_typed', { size: 'large' });
  await refused(ErrorCodes.IncompatibleSchema, app.publicDB.save(other));
});

group.check('methods of a record class work on what is read', async () => {
  const app = await ada();
  const Note = skygear.Record.extend('saved_note', {
    shout() {
      return this.text.toUpperCase();
    },
  });
  const saved = await app.publicDB.save(new Note({ text: 'quiet' }));
  const [found] = await app.publicDB.query(new skygear.Query(Note).equalTo('_id', saved._id));
  assert.equal(found.shout(), 'QUIET');
});

group.check('a deleted record is gone', async () => {
  const app = await ada();
  const saved = await app.publicDB.save(note({ text: 'short life' }));
  assert.equal(await app.publicDB.delete(saved), undefined);
  await assert.rejects(app.publicDB.getRecordByID(saved.id), /does not exist/);
  await refused(ErrorCodes.ResourceNotFound, app.publicDB.del(saved));
});

group.check('many are deleted, answered in order', async () => {
  const app = await ben();
  const own = await app.publicDB.save([note({ text: 'p' }), note({ text: 'q' })]);
  const foreign = await hers('stays');
  const none = note({ text: 'never saved' });
  const [a, b] = own.savedRecords;
  const errors = await app.publicDB.delete([a, foreign, none, b]);
  assert.deepEqual(errors.map((each) => each && each.code), [
    undefined,
    ErrorCodes.PermissionDenied,
    ErrorCodes.ResourceNotFound,
    undefined,
  ]);
  assert.equal((await app.publicDB.getRecordByID(foreign.id)).text, 'stays');
});

group.check('the result of a query is deleted as a whole', async () => {
  const app = await ada();
  const mark = unique('mark');
  await app.publicDB.save([1, 2, 3].map((n) => record('saved_litter', { mark, n })));
  const found = await app.publicDB.query(query('saved_litter').equalTo('mark', mark));
  assert.equal(found.length, 3);
  assert.deepEqual(Array.from(await app.publicDB.delete(found)), [undefined, undefined, undefined]);
  const left = await app.publicDB.query(query('saved_litter').equalTo('mark', mark));
  assert.equal(left.length, 0);
});

group.check('what is referred to cannot be deleted', async () => {
  const app = await ada();
  const shelf = await app.publicDB.save(record('saved_shelf', { name: 's' }));
  const item = record('saved_item', { on: new skygear.Reference(shelf) });
  await app.publicDB.save(item);
  await refused(ErrorCodes.ConstraintViolated, app.publicDB.delete(shelf));
  await app.publicDB.delete(item);
  await app.publicDB.delete(shelf);
});

group.check('a private record is its owner’s alone', async () => {
  const app = await ada();
  const secret = await app.privateDB.save(record('saved_diary', { text: 'dear diary' }));
  assert.equal((await app.privateDB.getRecordByID(secret.id)).text, 'dear diary');
  await assert.rejects(app.publicDB.getRecordByID(secret.id), /does not exist/);
  await assert.rejects((await ben()).privateDB.getRecordByID(secret.id), /does not exist/);
  await app.privateDB.delete(secret);
  await assert.rejects(app.privateDB.getRecordByID(secret.id), /does not exist/);
});

group.check('the private database needs a user', async () => {
  const app = application();
  const local = new app.Database('_private', app);
  await refused(ErrorCodes.NotAuthenticated, local.query(query('saved_diary')));
});

module.exports = group;
