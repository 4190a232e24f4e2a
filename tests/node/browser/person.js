// A person who uses the chat's page, and what the scripts with people have in common.
'use strict';

const assert = require('node:assert/strict');
const path = require('node:path');
const { Browser } = require('./devtools');

const quote = JSON.stringify;

/** A person who uses the chat's page. */
class Person {
  constructor(name, page) {
    this.name = name;
    this.page = page;
  }

  /** Opens the page and signs in with the keyboard; `signup` the first time, then `login`. */
  async come(address, action = 'signup') {
    await this.page.goTo(`${address}/chat`);
    await this.page.evaluate(`{
      const form = document.querySelector('#sign-in');
      form.querySelector('[value=${action}]').click();
      form.username.value = ${quote(this.name)};
      form.password.value = 'a good password';
      form.password.focus();
    }`);
    await this.page.pressEnter();
    await this.page.until(`${this.name} is in`, '!document.querySelector("#chat").hidden');
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
    await this.opened(title);
  }

  opened(title) {
    return this.page.until(`${title} is open`, `document.querySelector('#title').textContent === ${quote(title)}`);
  }

  async attach(file) {
    await this.page.chooseFile('#file', file);
    await this.sees('#chosen', path.basename(file));
  }

  click(selector) {
    return this.page.evaluate(`document.querySelector(${quote(selector)}).click()`);
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

  /** Waits until the room shows these messages, each once, in this order, and none is waiting. */
  async has(texts) {
    const shown = `[...document.querySelectorAll('.message:not(.waiting) .bubble')].map((it) => it.innerText)`;
    const wanted = quote(quote(texts));
    await this.page.until(`${this.name} has ${texts}`, `JSON.stringify(${shown}) === ${wanted}`);
    const waiting = await this.page.evaluate('document.querySelectorAll(".waiting").length');
    assert.equal(waiting, 0);
  }

  /** Runs an action as this person. */
  async call(address, action, body = {}) {
    const token = await this.page.evaluate('JSON.parse(sessionStorage.getItem("chat-session")).token');
    return call(address, action, body, token);
  }

  unread(title, count) {
    const badge = `[...document.querySelectorAll('#rooms button')]
      .find((it) => it.firstChild.textContent === ${quote(title)})?.querySelector('.badge')?.textContent ?? ''`;
    return this.page.until(`${this.name}: ${count} unread in ${title}`, `(${badge}) === ${quote(count)}`);
  }
}

/** Runs an action; without a token, as somebody who has only the page's key. */
async function call(address, action, body = {}, token = undefined) {
  const { api_key: key } = await (await fetch(`${address}/chat/key`)).json();
  const headers = { 'Content-Type': 'application/json', 'X-Skygear-API-Key': key };
  if (token) headers['X-Skygear-Access-Token'] = token;
  const request = { method: 'POST', headers, body: JSON.stringify(body) };
  const answer = await (await fetch(`${address}/${action.replaceAll(':', '/')}`, request)).json();
  if (answer.error) throw new Error(answer.error.message);
  return answer.result;
}

/** Asks for something to be done outside. */
function outside(what) {
  return new Promise((resolve) => {
    process.stdin.once('data', resolve);
    process.stdout.write(`${what}\n`);
  });
}

/** Runs a script with a browser whose profile is in a folder, and exits with its result. */
async function run(folder, script) {
  let browser;
  try {
    browser = await Browser.start(path.join(folder, 'profile'));
    await script(browser);
    process.exitCode = 0;
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  } finally {
    browser?.end();
    process.exit();
  }
}

module.exports = { Person, call, outside, run };
