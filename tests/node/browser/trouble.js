// Failures are shown and recovered from: rejected files, failed requests, a restart, ended sessions.
//
//   node trouble.js FOLDER ADDRESS
//
// It asks for what happens to the server and the plugin with lines of output, and continues at a line of input.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs/promises');
const path = require('node:path');
const { Person, outside, run } = require('./person');

const [, , folder, address] = process.argv;
const composer = 'document.querySelector("#composer textarea").value';

/** Saves that fail while the sockets stay open are retried, and nothing overtakes them. */
async function failedSaves(ada, ben) {
  await ada.page.block('*/record/save');
  await ada.say('one');
  await ada.sees('#messages', 'cannot be reached');
  await ada.say('two');
  await ada.makeRoom('never');
  await ada.sees('#new-room', 'cannot be reached');
  await ada.page.block();
  await ben.has(['one', 'two']);
  await ada.has(['one', 'two']);
}

/** A rejected message stays in its room, with the reason, and does not hold up the others. */
async function refusedFile(ada, ben) {
  await fs.writeFile(path.join(folder, 'empty.txt'), '');
  await ada.page.block('*/asset/put');
  await ada.attach(path.join(folder, 'empty.txt'));
  await ada.say('for the engines');
  await ada.say('three');
  await ada.makeRoom('tea');
  await ada.opened('tea');
  await ada.page.block();
  await ben.has(['one', 'two', 'three']);
  assert.equal(await ada.page.evaluate(composer), '');
  await ada.enter('engines');
  await ada.sees('#messages .refused', 'Not sent: Zero-byte content');
  await ada.sees('#messages .refused', 'for the engines');
  await ada.click('.refused button:last-child');
  await ada.has(['one', 'two', 'three']);
}

/** After a restart the sockets are back before the plugin is. */
async function restart(ada, ben) {
  await outside('stop both');
  await ada.sees('#connection', 'Not connected');
  await ada.say('four');
  await ada.say('five');
  await outside('start the server');
  const isRefused = 'performance.getEntriesByType("resource").some(({ responseStatus }) => responseStatus === 503)';
  for (const { name, page } of [ada, ben]) await page.until(`${name} is told that the plugin is away`, isRefused);
  await outside('start the plugin');
  const all = ['one', 'two', 'three', 'four', 'five'];
  await ben.has(all);
  await ada.has(all);
  for (const { page } of [ada, ben]) {
    await page.until('connected again', 'document.querySelector("#connection").textContent === ""');
  }
}

/** What was read in one tab is read in the others. */
async function twoTabs(browser, ada, ben) {
  const again = new Person('ada', await browser.page());
  await again.come(address, 'login');
  await ben.enter('tea');
  await ben.say('Milk first?');
  await ada.unread('tea', '1');
  await again.unread('tea', '1');
  await ada.enter('tea');
  await again.unread('tea', '');
  return again;
}

async function ended(ada, again) {
  await ada.call(address, 'auth:logout');
  await ada.sees('#ended', 'Your session has ended');
  await again.click('#sign-out');
  await again.page.until('signed out', '!document.querySelector("#welcome").hidden && !sessionStorage.length');
}

async function script(browser) {
  const ada = new Person('ada', await browser.page());
  const ben = new Person('ben', await browser.page());
  await ada.come(address);
  assert.equal(await ada.page.evaluate('document.activeElement.id'), 'title');
  await ben.come(address);
  await ada.makeRoom('engines');
  await ada.opened('engines');
  await ben.enter('engines');
  await failedSaves(ada, ben);
  await refusedFile(ada, ben);
  await restart(ada, ben);
  await ended(ada, await twoTabs(browser, ada, ben));
}

run(folder, script);
