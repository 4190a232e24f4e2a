// A stranger without an account has the page's key and a room's id, but can hear and forge nothing.
// And a file's name is only a name.
//
//   node strangers.js FOLDER ADDRESS
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs/promises');
const path = require('node:path');
const { w3cwebsocket: WebSocket } = require('websocket');
const { until } = require('./devtools');
const { Person, call, run } = require('./person');

const [, , folder, address] = process.argv;

/** Listens to channels and publishes there, with the client key alone. */
class Stranger {
  static async come() {
    const { api_key: key } = await (await fetch(`${address}/chat/key`)).json();
    const stranger = new Stranger();
    stranger.heard = [];
    stranger.socket = new WebSocket(`${address.replace('http', 'ws')}/pubsub?api_key=${key}`);
    stranger.socket.onmessage = ({ data }) => stranger.heard.push(data);
    await new Promise((resolve) => { stranger.socket.onopen = resolve; });
    return stranger;
  }

  send(frame) {
    this.socket.send(JSON.stringify(frame));
  }

  /** Listens to channels; resolves when the server has handled everything that was sent before. */
  async listen(...channels) {
    const echo = `echo-${this.heard.length}`;
    for (const channel of [...channels, echo]) this.send({ action: 'sub', channel });
    this.send({ action: 'pub', channel: echo, data: {} });
    await this.hears(echo);
  }

  /** Waits until a message that includes this has come. */
  hears(part) {
    return until(`a stranger hears ${part}`, () => this.heard.some((it) => it.includes(part)));
  }
}

async function script(browser) {
  const stranger = await Stranger.come();
  await stranger.listen('chat:rooms');
  const ada = new Person('lovelace', await browser.page());
  const ben = new Person('ben', await browser.page());
  await ada.come(address);
  await ben.come(address);
  await ada.makeRoom('engines');
  await ada.opened('engines');
  await ben.enter('engines');
  const [room] = await ada.call(address, 'record:query', { record_type: 'room' });
  await stranger.listen(room._id);
  await ada.say('The number is 4711');
  await ben.has(['The number is 4711']);

  // Channel messages reveal nothing, and neither does the API. Ids are hexadecimal: none of the
  // secrets can be part of one.
  const [message] = await ada.call(address, 'record:query', { record_type: 'message' });
  // The plugin announces a message after it is saved: perhaps after ben has it.
  await stranger.hears(message._id);
  for (const secret of ['The number', 'engines', 'lovelace']) {
    assert.ok(!stranger.heard.join().includes(secret), `${secret} was heard: ${stranger.heard}`);
  }
  for (const record_type of ['room', 'message', 'reading']) {
    assert.deepEqual(await call(address, 'record:query', { record_type }).catch(() => []), []);
  }

  // Published messages are not trusted.
  const now = new Date().toISOString();
  const forged = { ...message, _id: 'message/forged', text: 'Pay eve', _created_at: now, _updated_at: now };
  const script = { $name: 'report.pdf', $url: 'javascript:document.title="taken"' };
  for (const data of [
    { event: 'sent', id: 'message/forged', message: forged },
    { event: 'sent', message: { ...forged, _id: 'message/script', attachment: script } },
    { event: 'edited', message: { ...message, text: 'The number is 9999', _updated_at: '2100-01-01T00:00:00Z' } },
    { event: 'read' }, { event: 'typing' }, {}, 5, [],
  ]) stranger.send({ action: 'pub', channel: room._id, data });
  await stranger.listen('nothing more');
  await ada.say('And so it stays');
  await ben.has(['The number is 4711', 'And so it stays']);
  await ada.has(['The number is 4711', 'And so it stays']);

  // An address that is not http(s) is not followed either, should one ever arrive.
  const shown = await ben.page.evaluate(`import('/static/chat/view.js').then(({ showMessages }) => {
    const list = document.createElement('ol');
    const messages = ${JSON.stringify([{ ...forged, attachment: script }])};
    const outbox = new Map();
    outbox.entries = outbox;
    showMessages(list, { list: () => messages, outbox, readersOf: () => [] }, 'nobody');
    return list.querySelector('a').getAttribute('href');
  })`);
  assert.equal(shown, null);

  // A percent sign is not an escape.
  for (const name of ['100%.txt', 'a%20b.txt']) {
    await fs.writeFile(path.join(folder, name), 'text');
    await ada.attach(path.join(folder, name));
    await ada.say(name.toUpperCase());
    await ben.sees('#messages', name);
  }
  await ben.say('I see both');
  await ada.sees('#messages', 'I see both');
}

run(folder, script);
