// What an application sees when something is wrong.
'use strict';

const assert = require('node:assert/strict');
const { Group, once, refused } = require('./harness');
const {
  API_KEY,
  SKYGEAR_ENDPOINT,
  application,
  person,
  query,
  skygear,
  unique,
} = require('./world');

const group = new Group('errors');
const { ErrorCodes } = skygear;

const ada = once(() => person('ada'));

group.check('a refused request has status, code, name, message, and info', async () => {
  const thrown = await application().auth.signup({ no: 'x' }, 'pw').then(() => null, (e) => e);
  assert.equal(thrown.status, 400);
  assert.equal(thrown.error.code, ErrorCodes.InvalidArgument);
  assert.equal(thrown.error.name, 'InvalidArgument');
  assert.ok(thrown.error.message.length > 0);
  assert.deepEqual(thrown.error.info, { arguments: ['auth_data'] });
});

// Name, the call, HTTP status, code, name of the error.
const CASES = [
  ['a wrong key', () => application('wrong').auth.whoami(), 401, 103, 'AccessKeyNotAccepted'],
  ['no user', () => application().auth.whoami(), 401, 101, 'NotAuthenticated'],
  ['an unknown action', () => application().makeRequest('no:such', {}), 404, 117, 'UndefinedOperation'],
  [
    'a parameter of the wrong kind',
    async () => (await ada()).makeRequest('record:save', { records: 'none' }),
    400,
    107,
    'BadRequest',
  ],
  [
    'a missing parameter',
    async () => (await ada()).makeRequest('record:save', { records: [] }),
    400,
    108,
    'InvalidArgument',
  ],
  [
    'the union of databases',
    async () => {
      const app = await ada();
      return new app.Database('_union', app).query(query('any'));
    },
    401,
    101,
    'NotAuthenticated',
  ],
];

for (const [name, call, status, code, errorName] of CASES) {
  group.check(name, async () => {
    const thrown = await call().then(() => null, (error) => error);
    assert.ok(thrown, 'not refused');
    assert.deepEqual([thrown.status, thrown.error.code, thrown.error.name], [status, code, errorName]);
    assert.equal(typeof thrown.error.message, 'string');
  });
}

group.check('every refusal leaves the session alone but that of the token', async () => {
  const app = await ada();
  await refused(ErrorCodes.UndefinedOperation, app.makeRequest('no:such', {}));
  assert.ok(app.auth.currentUser);
  assert.ok(app.auth.accessToken);
});

group.check('a server that is not there', async () => {
  const app = application(undefined, 'http://127.0.0.1:9/');
  const thrown = await app.auth.whoami().then(() => null, (error) => error);
  assert.equal(thrown.error.code, 'ECONNREFUSED');
});

group.check('the SDK’s own error goes to JSON and back', async () => {
  const app = application();
  const error = new app.Error('no good', ErrorCodes.InvalidArgument, { arguments: ['x'] });
  assert.deepEqual(error.toJSON(), {
    name: 'InvalidArgument',
    code: ErrorCodes.InvalidArgument,
    message: 'no good',
    info: { arguments: ['x'] },
  });
  const back = app.Error.fromJSON(error.toJSON());
  assert.deepEqual([back.message, back.code, back.info], [error.message, error.code, error.info]);
  assert.equal(`${error}`, 'SkygearError: no good');
  assert.match(error.toLocaleString(), /unable to process the data/);
});

group.check('the codes of the SDK are those of the server', async () => {
  const thrown = await (await ada()).makeRequest('no:such', {}).then(() => null, (e) => e);
  assert.equal(ErrorCodes[thrown.error.name], thrown.error.code);
});

group.check('a configuration makes an application ready', async () => {
  const app = new skygear.constructor();
  app.pubsub.autoPubsub = false;
  assert.equal(await app.config({ endPoint: SKYGEAR_ENDPOINT, apiKey: API_KEY }), app);
  assert.equal(app.endPoint, SKYGEAR_ENDPOINT);
  await app.auth.signupWithUsername(unique('ready'), 'pw');
  assert.equal((await app.auth.whoami())._id, app.auth.currentUser._id);
});

group.check('the parts of an application are of the classes that it names', async () => {
  const app = application();
  assert.ok(app.auth instanceof app.AuthContainer);
  assert.ok(app.relation instanceof app.RelationContainer);
  assert.ok(app.pubsub instanceof app.PubsubContainer);
  assert.ok(app.push instanceof app.PushContainer);
  assert.ok(app.publicDB instanceof app.Database);
  assert.ok(new app.DatabaseContainer(app).public instanceof app.Database);
});

group.check('an endpoint is completed', async () => {
  const app = application(undefined, SKYGEAR_ENDPOINT.replace(/\/$/, ''));
  assert.equal(app.endPoint, SKYGEAR_ENDPOINT);
  await refused(ErrorCodes.NotAuthenticated, app.auth.whoami());
});

group.check('without a configuration nothing is sent', async () => {
  const app = new skygear.constructor();
  await assert.rejects(app.auth.whoami(), /config endpoint/);
  app.configEndPoint(SKYGEAR_ENDPOINT);
  await assert.rejects(app.auth.whoami(), /config ApiKey/);
});

module.exports = group;
