// Two people chat, each in a browser of their own; one loses the network for a while.
//
//   node chat.js ADDRESS ADDRESS-THAT-IS-CUT PROFILE SCREENSHOTS
//
// It asks for the cut and its end with lines of output, and goes on at a line of input.
'use strict';

const assert = require('node:assert/strict');
const path = require('node:path');
const { Browser } = require('./devtools');

const [, , adaAt, benAt, profile, screenshots] = process.argv;
const quote = JSON.stringify;

/** Somebody in front of the chat's page. */
class Person {
  constructor(name, page) {
    this.name = name;
    this.page = page;
  }

  async come(address) {
    await this.page.goTo(`${address}/chat`);
    await this.shoot('welcome');
    await this.page.evaluate(`{
      const form = document.querySelector('#sign-in');
      form.username.value = ${quote(this.name)};
      form.password.value = 'a good password';
      form.querySelector('[value=signup]').click();
    }`);
    await this.page.until(`${this.name} is in`, '!document.querySelector("#chat").hidden');
  }

  shoot(what) {
    return this.page.screenshot(path.join(screenshots, `${this.name}-${what}.png`));
  }

  makeRoom(title) {
    return this.page.evaluate(`{
      const form = document.querySelector('#new-room');
      form.elements.title.value = ${quote(title)};
      form.requestSubmit();
    }`);
  }

  async enter(title) {
    const button = `[...document.querySelectorAll('#rooms button')]
      .find((it) => it.firstChild.textContent === ${quote(title)})`;
    await this.page.until(`${this.name} finds ${title}`, `Boolean(${button})`);
    await this.page.evaluate(`${button}.click()`);
    await this.page.until(`${title} is open`, `document.querySelector('#title').textContent === ${quote(title)}`);
  }

  write(text) {
    return this.page.evaluate(`{
      const area = document.querySelector('#composer textarea');
      area.focus();
      area.value = ${quote(text)};
      area.dispatchEvent(new Event('input', { bubbles: true }));
    }`);
  }

  async say(text) {
    await this.write(text);
    await this.page.evaluate('document.querySelector("#composer").requestSubmit()');
  }

  sees(what, text) {
    return this.page.until(
      `${this.name} sees ${text}`,
      `document.querySelector(${quote(what)}).innerText.includes(${quote(text)})`,
    );
  }

  /** Waits until the room has these messages, each once, in this order, and none is waiting. */
  async has(texts) {
    const shown = `[...document.querySelectorAll('.message:not(.waiting) .bubble')].map((it) => it.innerText)`;
    const wanted = quote(quote(texts));
    await this.page.until(`${this.name} has ${texts}`, `JSON.stringify(${shown}) === ${wanted}`);
    const waiting = await this.page.evaluate('document.querySelectorAll(".waiting").length');
    assert.equal(waiting, 0);
  }

  unread(title, count) {
    const badge = `[...document.querySelectorAll('#rooms button')]
      .find((it) => it.firstChild.textContent === ${quote(title)})?.querySelector('.badge')?.textContent ?? ''`;
    return this.page.until(`${this.name}: ${count} unread in ${title}`, `(${badge}) === ${quote(count)}`);
  }
}

/** Has something done outside. */
function outside(what) {
  return new Promise((resolve) => {
    process.stdin.once('data', resolve);
    process.stdout.write(`${what}\n`);
  });
}

async function talk(browser) {
  const ada = new Person('ada', await browser.page());
  const ben = new Person('ben', await browser.page({ scheme: 'dark' }));
  await ada.come(adaAt);
  await ben.come(benAt);

  await ada.makeRoom('engines');
  await ada.sees('#title', 'engines');
  await ben.enter('engines');
  const said = ['Does it run yet?'];
  await ada.say(said[0]);
  await ben.has(said);
  await ada.sees('#messages', 'Read by ben');
  await ben.write('It does');
  await ada.sees('#typing', 'ben is typing');
  await ada.shoot('typing');
  said.push('It does. Every write is an event, and what was said stays said.');
  await ben.say(said[1]);
  await ada.has(said);

  // A picture.
  await ada.page.chooseFile('#file', path.join(screenshots, 'ada-typing.png'));
  await ada.sees('#chosen', 'ada-typing.png');
  said.push('So it looks from here');
  await ada.say(said[2]);
  await ben.has(said);
  await ben.page.until('the picture is there', 'document.querySelector(".bubble img")?.naturalWidth > 100');

  // Another room, in which Ben is not.
  await ada.makeRoom('tea');
  await ada.sees('#title', 'tea');
  await ada.say('Milk first?');
  await ada.say('Or last?');
  await ben.unread('tea', '2');
  await ben.shoot('unread');
  await ben.enter('tea');
  await ben.has(['Milk first?', 'Or last?']);
  await ben.unread('tea', '');
  await ben.enter('engines');
  await ada.enter('engines');

  // Ben's network goes. He writes on, and so does Ada.
  await outside('cut');
  await ben.sees('#connection', 'Not connected');
  const missed = ['Are you there?', 'I go on, then.', 'The drum turns.'];
  for (const text of missed) await ada.say(text);
  await ada.has([...said, ...missed]);
  await ben.say('I am in a tunnel');
  await ben.sees('#messages', 'Sending');
  await ben.shoot('in-the-tunnel');
  await ada.enter('tea');
  await ada.say('Ben?');
  await ada.has(['Milk first?', 'Or last?', 'Ben?']);
  await ada.enter('engines');
  await outside('mend');
  said.push(...missed, 'I am in a tunnel');
  await ben.has(said);
  await ada.has(said);
  await ben.unread('tea', '1');
  await ben.page.until('connected again', 'document.querySelector("#connection").textContent === ""');
  await ada.shoot('after-the-tunnel');

  // Everything is there for who comes back.
  await ben.page.goTo(`${benAt}/chat`);
  await ben.unread('tea', '1');
  await ben.enter('engines');
  await ben.has(said);
  await ben.page.send('Emulation.setDeviceMetricsOverride', {
    width: 390, height: 780, mobile: true, deviceScaleFactor: 2,
  });
  await ben.say('And on it goes');
  await ada.has([...said, 'And on it goes']);
  await ben.has([...said, 'And on it goes']);
  const isAtEnd = '(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight < 2)';
  await ben.page.until('the end is seen', `${isAtEnd}(document.querySelector('#messages'))`);
  await ben.shoot('on-a-phone');
}

async function main() {
  const browser = await Browser.start(profile);
  try {
    await talk(browser);
  } finally {
    browser.end();
  }
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
