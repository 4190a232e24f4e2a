// Plugins' functions and hooks, as an application uses them.
'use strict';

const assert = require('node:assert/strict');
const { Group, once, refused } = require('./harness');
const { application, person, record, skygear } = require('./world');

const group = new Group('lambdas');
const { ErrorCodes, Geolocation, Reference } = skygear;

const ada = once(() => person('ada'));

group.check('arguments by name and in order', async () => {
  const app = await ada();
  const named = await app.lambda('sdk:echo', { who: 'ada', n: [1, 2] });
  assert.deepEqual(named.args, { who: 'ada', n: [1, 2] });
  const ordered = await app.lambda('sdk:echo', ['a', 2, null]);
  assert.deepEqual(ordered.args, ['a', 2, null]);
});

group.check('no arguments', async () => {
  const answer = await (await ada()).lambda('sdk:echo');
  assert.equal(answer.args, null);
});

group.check('the plugin knows who calls', async () => {
  const app = await ada();
  assert.equal((await app.lambda('sdk:echo')).user_id, app.auth.currentUser._id);
  assert.equal((await application().lambda('sdk:echo')).user_id, null);
});

group.check('typed values go there and come back', async () => {
  const app = await ada();
  const note = await app.publicDB.save(record('lambda_note', { text: 'inside' }));
  const at = new Date('2020-02-02T02:02:02.222Z');
  const { args } = await app.lambda('sdk:echo', {
    at,
    place: new Geolocation(1, 2),
    target: new Reference('lambda_note/1'),
    note,
    deep: [{ at: [at] }],
  });
  assert.equal(args.at.toISOString(), at.toISOString());
  assert.deepEqual([args.place.latitude, args.place.longitude], [1, 2]);
  assert.equal(args.target.id, 'lambda_note/1');
  assert.equal(args.note.id, note.id);
  assert.equal(args.note.text, 'inside');
  assert.equal(args.note.createdAt.getTime(), note.createdAt.getTime());
  assert.equal(args.deep[0].at[0].toISOString(), at.toISOString());
});

group.check('an unknown value goes there and comes back', async () => {
  const unknown = { $type: 'unknown', $underlying_type: 'money' };
  const { args } = await (await ada()).lambda('sdk:echo', { price: unknown });
  assert.equal(args.price.underlyingType, 'money');
});

group.check('a name with slashes', async () => {
  const answer = await (await ada()).lambda('sdk/with/slashes', { n: 1 });
  assert.equal(answer.name, 'sdk/with/slashes');
  assert.deepEqual(answer.args, { n: 1 });
});

group.check('the plugin’s refusal reaches the application whole', async () => {
  const call = (await ada()).lambda('sdk:refuse', { code: 1234 });
  const error = await refused(ErrorCodes.InvalidArgument, call);
  assert.equal(error.message, 'not like this');
  assert.deepEqual(error.info, { arguments: ['this'], more: { deep: true } });
});

group.check('nothing as an answer', async () => {
  assert.equal(await (await ada()).lambda('sdk:nothing'), undefined);
});

group.check('a function for users refuses others', async () => {
  await refused(ErrorCodes.NotAuthenticated, application().lambda('sdk:for_users'));
  const answer = await (await ada()).lambda('sdk:for_users');
  assert.equal(answer.name, 'sdk:for_users');
});

group.check('a function that nobody has', async () => {
  await refused(ErrorCodes.UndefinedOperation, (await ada()).lambda('sdk:none'));
});

group.check('a hook changes what is saved', async () => {
  const app = await ada();
  const saved = await app.publicDB.save(record('hooked', { text: 'one two three' }));
  assert.equal(saved.words, 3);
  assert.equal((await app.publicDB.getRecordByID(saved.id)).words, 3);
});

group.check('a hook refuses, and says why', async () => {
  const app = await ada();
  const empty = record('hooked', { text: '' });
  const error = await refused(ErrorCodes.InvalidArgument, app.publicDB.save(empty));
  assert.equal(error._id, empty.id);
  assert.equal(error.message, 'a text is needed');
  assert.deepEqual(error.info, { arguments: ['text'] });
  await assert.rejects(app.publicDB.getRecordByID(empty.id), /does not exist/);
});

module.exports = group;
