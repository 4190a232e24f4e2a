// The server stops and comes back: subscriptions, what was published meanwhile, and the session.
'use strict';

const assert = require('node:assert/strict');
const { Group, Inbox, once } = require('./harness');
const { RESTARTING_ENDPOINT, application, person, record, API_KEY, unique } = require('./world');

const group = new Group('reconnecting');

/** Has the server killed and started again; resolves when it is ready. */
function restartServer() {
  return new Promise((resolve) => {
    process.stdin.once('data', resolve);
    process.stdout.write('restart\n');
  });
}

async function connected(app) {
  const opened = new Promise((resolve) => app.pubsub.onOpen(resolve));
  app.pubsub.reconfigure();
  await opened;
}

/** Subscribes to changes; returns where the notices arrive, once the first one has. */
async function watch(app) {
  const device = await app.push.registerDevice(unique('token'), 'ios');
  const notices = new Inbox();
  app.pubsub._internalPubsub.on(`_sub_${device}`, (notice) => notices.put(notice));
  await app.publicDB.save(record('watched_note', { n: 0 }));
  const subscription = { id: 'all', type: 'query', query: { record_type: 'watched_note' } };
  const body = { device_id: device, database_id: '_public', subscriptions: [subscription] };
  await app.makeRequest('subscription:save', body);
  await app.publicDB.save(record('watched_note', { n: 1 }));
  assert.equal((await notices.next())['subscription-id'], 'all');
  return notices;
}

const scene = once(async () => {
  const room = unique('room');
  const ada = await person('ada', RESTARTING_ENDPOINT);
  const ben = application(API_KEY, RESTARTING_ENDPOINT);
  await Promise.all([connected(ada), connected(ben)]);
  const inbox = new Inbox();
  ada.pubsub.on(room, (message) => inbox.put(message));
  ada.pubsub.publish(room, { probe: 1 });
  assert.deepEqual(await inbox.next(), { probe: 1 });
  const note = await ada.publicDB.save(record('kept_note', { text: 'before' }));
  const notices = await watch(ada);
  const seen = [];
  ada.pubsub.onClose(() => seen.push('close'));
  const adaIsBack = new Promise((resolve) => ada.pubsub.onOpen(resolve));
  const benIsBack = new Promise((resolve) => ben.pubsub.onOpen(resolve));
  const adaIsGone = new Promise((resolve) => ada.pubsub.onClose(resolve));
  const restarted = restartServer();
  await adaIsGone;
  // The SDK keeps this until its socket is open again, and subscribes first.
  ada.pubsub.publish(room, { said: 'while away' });
  // Changed as soon as the server is back, whether or not the SDK has noticed.
  const changed = restarted.then(() => ada.publicDB.save(record('watched_note', { n: 2 })));
  await Promise.all([restarted, adaIsBack, benIsBack, changed]);
  return { ada, ben, inbox, note, notices, room, seen };
});

group.check('both sockets open again by themselves', async () => {
  const { ada, ben, seen } = await scene();
  assert.ok(seen.length >= 1);
  assert.equal(ada.pubsub._pubsub.connected, true);
  assert.equal(ben.pubsub._pubsub.connected, true);
});

group.check('what was published while the server was away arrives', async () => {
  const { inbox } = await scene();
  assert.deepEqual(await inbox.next(), { said: 'while away' });
});

group.check('the subscription goes on', async () => {
  const { ben, inbox, room } = await scene();
  ben.pubsub.publish(room, { said: 'after' });
  assert.deepEqual(await inbox.next(), { said: 'after' });
  assert.deepEqual(inbox.items, []);
});

group.check('the device is told of a change', async () => {
  const { notices } = await scene();
  assert.equal((await notices.next())['subscription-id'], 'all');
});

group.check('the session and what was saved are still there', async () => {
  const { ada, note } = await scene();
  assert.equal((await ada.auth.whoami())._id, note.ownerID);
  assert.equal((await ada.publicDB.getRecordByID(note.id)).text, 'before');
});

module.exports = group;
