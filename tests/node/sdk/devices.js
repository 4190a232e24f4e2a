// Devices, their subscriptions, and pushing to them.
'use strict';

const assert = require('node:assert/strict');
const { Group, Inbox, once, refused } = require('./harness');
const { application, person, record, skygear, unique } = require('./world');

const group = new Group('devices');
const { ErrorCodes } = skygear;
const ada = once(() => person('ada'));

group.check('a device is registered and known again', async () => {
  const { push } = await ada();
  const token = unique('token');
  const id = await push.registerDevice(token, 'ios', 'com.example.app');
  assert.ok(id);
  assert.equal(push.deviceID, id);
  assert.equal(await push.registerDevice(unique('token'), 'ios', 'com.example.app'), id);
});

group.check('a device that the server forgot is registered anew', async () => {
  const { push } = await person('ben');
  await push._setDeviceID('forgotten');
  const id = await push.registerDevice(unique('token'), 'android');
  assert.ok(id && id !== 'forgotten');
  assert.equal(push.deviceID, id);
});

group.check('an unknown kind of device is refused and named', async () => {
  const { push } = await person('cy');
  const register = push.registerDevice(unique('token'), 'toaster');
  const error = await refused(ErrorCodes.InvalidArgument, register);
  assert.deepEqual(error.info.arguments, ['type']);
});

group.check('registering needs a user, a token, and a type', async () => {
  const register = application().push.registerDevice('token', 'ios');
  await refused(ErrorCodes.NotAuthenticated, register);
  const { push } = await ada();
  await assert.rejects(push.registerDevice(''), /Token cannot be empty/);
  await assert.rejects(push.registerDevice('token'), /infer type/);
});

group.check('a device is unregistered', async () => {
  const { push } = await person('di');
  await push.registerDevice(unique('token'), 'ios');
  await push.unregisterDevice();
  assert.ok(push.deviceID);
});

group.check('unregistering a device that the server forgot is no error', async () => {
  const { push } = await person('ed');
  await push._setDeviceID('forgotten');
  await push.unregisterDevice();
  assert.equal(push.deviceID, null);
});

group.check('unregistering without a device is refused by the SDK', async () => {
  const { push } = await person('flo');
  const error = await refused(ErrorCodes.InvalidArgument, push.unregisterDevice());
  assert.equal(error.message, 'Missing device id');
});

group.check('a logout takes the device along', async () => {
  const app = await person('gus');
  await app.push.registerDevice(unique('token'), 'android');
  await app.auth.logout();
  assert.equal(app.auth.currentUser, null);
});

group.check('a change of a record reaches the device that asked for it', async () => {
  const app = await person('hue');
  const device = await app.push.registerDevice(unique('token'), 'ios');
  app.pubsub.reconfigure();
  const notices = new Inbox();
  const internal = app.pubsub._internalPubsub;
  const opened = new Promise((resolve) => internal.onOpen(resolve));
  internal.on(`_sub_${device}`, (notice) => notices.put(notice));
  await opened;
  const mark = unique('mark');
  const predicate = ['eq', { $type: 'keypath', $val: 'mark' }, mark];
  const subscription = { id: 'mine', type: 'query', query: { record_type: 'watched', predicate } };
  await app.publicDB.save(record('watched', { mark: 'before' }));
  await app.makeRequest('subscription:save', {
    device_id: device,
    database_id: '_public',
    subscriptions: [subscription],
  });
  await app.publicDB.save(record('watched', { mark: 'another' }));
  const watched = await app.publicDB.save(record('watched', { mark }));
  const first = await notices.next();
  assert.equal(first['subscription-id'], 'mine');
  assert.ok(first['seq-num'] > 0);
  watched.text = 'changed';
  await app.publicDB.save(watched);
  // The numbers grow, but by less than a JavaScript number can distinguish.
  assert.ok((await notices.next())['seq-num'] >= first['seq-num']);
  // The record leaves the result; later changes are not reported.
  watched.mark = 'after';
  await app.publicDB.save(watched);
  assert.equal((await notices.next())['subscription-id'], 'mine');
  await app.publicDB.save(watched);
  await app.publicDB.delete(await app.publicDB.save(record('watched', { mark })));
  await notices.next();
  await notices.next();
  assert.deepEqual(notices.items, []);
  internal.close();
  app.pubsub._pubsub.close();
});

group.check('users and devices are pushed to', async () => {
  const app = await ada();
  const notification = { apns: { aps: { alert: 'hi' } }, gcm: { notification: { title: 'hi' } } };
  const me = app.auth.currentUser;
  const device = app.push.deviceID;
  const answer = await app.push.sendToUser(me._id, notification);
  assert.deepEqual(answer.result ?? answer, [{ _id: me._id }]);
  await app.push.sendToUser([me], notification, 'topic');
  const there = await app.push.sendToDevice(device, notification);
  assert.deepEqual(there.result ?? there, [{ _id: device }]);
  const forgotten = await app.push.sendToDevice(['forgotten', device], notification);
  assert.equal((forgotten.result ?? forgotten)[0].code, ErrorCodes.ResourceNotFound);
});

module.exports = group;
