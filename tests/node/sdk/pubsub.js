// Messages between applications.
'use strict';

const assert = require('node:assert/strict');
const { Group, Inbox } = require('./harness');
const { application, unique } = require('./world');

const group = new Group('pubsub');

/** Runs a function with an application whose sockets are open. */
async function online(count, work) {
  const apps = [];
  for (let n = 0; n < count; n += 1) {
    const app = application();
    const opened = new Promise((resolve) => app.pubsub.onOpen(resolve));
    app.pubsub.reconfigure();
    apps.push(app);
    await opened;
  }
  try {
    return await work(...apps);
  } finally {
    for (const app of apps) {
      app.pubsub._pubsub.close();
      app.pubsub._internalPubsub.close();
    }
  }
}

/** Listens to a channel; resolves once it hears what is published there. */
async function listen(app, channel) {
  const inbox = new Inbox();
  app.pubsub.on(channel, (message) => inbox.put(message));
  app.pubsub.publish(channel, { probe: true });
  assert.deepEqual(await inbox.next(), { probe: true });
  return inbox;
}

group.check('what one publishes the others hear', () => online(3, async (ada, ben, cyd) => {
  const room = unique('room');
  const inboxes = [await listen(ada, room), await listen(ben, room)];
  // Ada has also heard Ben's probe.
  assert.deepEqual(await inboxes[0].next(), { probe: true });
  const message = { text: 'hello', list: [1, { two: null }], 'ключ': '🚀' };
  cyd.pubsub.publish(room, message);
  for (const inbox of inboxes) assert.deepEqual(await inbox.next(), message);
}));

group.check('who publishes and listens hears it, too', () => online(1, async (ada) => {
  const inbox = await listen(ada, unique('echo'));
  assert.equal(inbox.items.length, 0);
}));

group.check('messages keep their order', () => online(2, async (ada, ben) => {
  const room = unique('order');
  const inbox = await listen(ada, room);
  for (let n = 0; n < 200; n += 1) ben.pubsub.publish(room, { n });
  for (let n = 0; n < 200; n += 1) assert.deepEqual(await inbox.next(), { n });
}));

group.check('channels are kept apart', () => online(2, async (ada, ben) => {
  const [one, two] = [unique('one'), unique('two')];
  const first = await listen(ada, one);
  const second = await listen(ada, two);
  ben.pubsub.publish(two, { to: 'two' });
  ben.pubsub.publish(one, { to: 'one' });
  assert.deepEqual(await second.next(), { to: 'two' });
  assert.deepEqual(await first.next(), { to: 'one' });
  assert.deepEqual([first.items, second.items], [[], []]);
}));

group.check('once is for one message', () => online(2, async (ada, ben) => {
  const room = unique('once');
  const all = await listen(ada, room);
  const single = ada.pubsub.once(room);
  ben.pubsub.publish(room, { n: 1 });
  ben.pubsub.publish(room, { n: 2 });
  assert.deepEqual(await single, { n: 1 });
  assert.deepEqual([await all.next(), await all.next()], [{ n: 1 }, { n: 2 }]);
}));

group.check('a listener that left hears nothing, the other goes on', () => online(1, async (ada) => {
  const room = unique('off');
  const left = [];
  const leaving = ada.pubsub.on(room, (message) => left.push(message));
  const inbox = await listen(ada, room);
  ada.pubsub.off(room, leaving);
  ada.pubsub.publish(room, { n: 1 });
  assert.deepEqual(await inbox.next(), { n: 1 });
  assert.deepEqual(left, [{ probe: true }]);
}));

group.check('a channel that all left is no longer heard', () => online(1, async (ada) => {
  const [room, other] = [unique('left'), unique('other')];
  const inbox = await listen(ada, room);
  ada.pubsub.off(room);
  ada.pubsub.publish(room, { n: 1 });
  // Order is kept: the probe arrives after what must not be heard.
  await listen(ada, other);
  assert.deepEqual(inbox.items, []);
  assert.deepEqual((await listen(ada, room)).items, []);
}));

group.check('what is published before the socket is open is not lost', () => online(1, async (ada) => {
  const room = unique('early');
  const inbox = await listen(ada, room);
  const late = application();
  late.pubsub.publish(room, { n: 1 });
  late.pubsub.publish(room, { n: 2 });
  late.pubsub.reconfigure();
  assert.deepEqual([await inbox.next(), await inbox.next()], [{ n: 1 }, { n: 2 }]);
  late.pubsub._pubsub.close();
  late.pubsub._internalPubsub.close();
}));

group.check('only objects are published', () => online(1, async (ada) => {
  assert.throws(() => ada.pubsub.publish('room', 'text'), /Data must be object/);
  assert.throws(() => ada.pubsub.publish('room', [1]), /Data must be object/);
  assert.throws(() => ada.pubsub.publish('', {}), /Missing channel/);
}));

group.check('a login opens both sockets by itself', async () => {
  const app = application();
  app.pubsub.autoPubsub = true;
  const opened = [app.pubsub._pubsub, app.pubsub._internalPubsub].map(
    (each) => new Promise((resolve) => each.onOpen(resolve)),
  );
  await app.auth.signupWithUsername(unique('auto'), 'pw');
  await Promise.all(opened);
  assert.equal(app.pubsub._pubsub.connected, true);
  assert.equal(app.pubsub._internalPubsub.connected, true);
  app.pubsub._pubsub.close();
  app.pubsub._internalPubsub.close();
});

group.check('a wrong key opens no socket', async () => {
  const app = application('wrong');
  const closed = new Promise((resolve) => app.pubsub.onClose(resolve));
  let isOpened = false;
  app.pubsub.onOpen(() => {
    isOpened = true;
  });
  app.pubsub._pubsub.connect();
  assert.equal(await closed, false);
  assert.equal(isOpened, false);
  // Without a key it stops trying.
  app.apiKey = null;
});

module.exports = group;
