// Many messages at once, and many rooms.
//
//   node crowd.js FOLDER ADDRESS
'use strict';

const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { Person, run } = require('./person');

const [, , folder, address] = process.argv;
/** More than one page. */
const AT_ONCE = 60;
const MESSAGES = 2 * AT_ONCE;
const ROOMS = 60;

async function script(browser) {
  const ada = new Person('ada', await browser.page());
  const ben = new Person('ben', await browser.page());
  await ada.come(address);
  await ben.come(address);
  await ada.makeRoom('engines');
  await ada.opened('engines');
  await ben.enter('engines');

  // Many messages are saved at the same time, and each is rendered about once.
  await ben.page.evaluate(`{
    window.added = 0;
    const count = (changes) => changes.forEach(({ addedNodes }) => { added += addedNodes.length; });
    new MutationObserver(count).observe(document.querySelector('#messages'), { childList: true });
  }`);
  const [room] = await ada.call(address, 'record:query', { record_type: 'room' });
  const texts = Array.from({ length: MESSAGES }, (_, number) => `message ${number}`);
  const records = texts.map((text) => ({
    _id: `message/${randomUUID()}`, room: { $type: 'ref', $id: room._id }, text,
  }));
  await ada.call(address, 'record:save', { records: records.slice(0, AT_ONCE) });
  await ada.call(address, 'record:save', { records: records.slice(AT_ONCE) });
  const shown = 'document.querySelectorAll(".message").length';
  await ben.page.until('all are shown', `${shown} === ${MESSAGES}`);
  const added = await ben.page.evaluate('added');
  assert.ok(added <= 4 * MESSAGES, `${added} elements for ${MESSAGES} messages`);

  // Loading page by page finds them all, however often the button is clicked meanwhile. What is
  // shown also grows without it: the live query reports all messages of the oldest one's time.
  const cleo = new Person('cleo', await browser.page());
  await cleo.come(address);
  await cleo.enter('engines');
  const older = 'document.querySelector(".older button")';
  await cleo.page.until('the first page is shown', `${shown} > 0 && Boolean(${older})`);
  await cleo.page.until('all pages are loaded', `(${older}?.click(), !${older})`);
  const bubbles = '[...document.querySelectorAll(".bubble")].map((it) => it.innerText)';
  assert.deepEqual((await cleo.page.evaluate(bubbles)).sort(), [...texts].sort());

  // However many rooms there are, the newest is there after a reconnect.
  const rooms = Array.from({ length: ROOMS }, (_, number) => ({
    _id: `room/${randomUUID()}`, title: `room ${number}`,
  }));
  await ada.call(address, 'record:save', { records: rooms });
  await ada.makeRoom('the newest');
  await ada.opened('the newest');
  await ada.say('Is anybody here?');
  await ben.page.goTo(`${address}/chat`);
  await ben.unread('the newest', '1');
  await ben.enter('the newest');
  await ben.has(['Is anybody here?']);
}

run(folder, script);
