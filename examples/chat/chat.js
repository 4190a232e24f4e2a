// Two people chat through the server, with the unmodified published SDK (npm `skygear` 1.7.2).
//
//   SKYGEAR_ENDPOINT=http://127.0.0.1:3000/ API_KEY=… node chat.js
//
// It prints what was said and exits with 0, or with 1 if anything is wrong, or if it takes longer
// than TIME_LIMIT_MS.

'use strict';

const assert = require('assert');
const { randomUUID } = require('crypto');
const skygear = require('skygear');

const END_POINT = process.env.SKYGEAR_ENDPOINT || 'http://127.0.0.1:3000/';
const API_KEY = process.env.API_KEY;
const TIME_LIMIT_MS = Number(process.env.TIME_LIMIT_MS || 30000);
const INVALID_ARGUMENT = 108;

const Room = skygear.Record.extend('room');
const Message = skygear.Record.extend('message');

/** A person: an SDK instance, and what the person has heard in the room. */
class Person {
  constructor(name) {
    this.name = name;
    this.sdk = new skygear.constructor();
    this.heard = [];
    this.waiting = [];
  }

  async signUp() {
    await this.sdk.config({ endPoint: END_POINT, apiKey: API_KEY });
    const username = `${this.name}-${randomUUID().slice(0, 8)}`;
    this.user = await this.sdk.auth.signupWithUsername(username, randomUUID());
  }

  /** Listens to a room; resolves once it hears what is published there. */
  async enter(room) {
    this.sdk.pubsub.on(room.id, (news) => {
      this.heard.push(news);
      this.waiting.splice(0).forEach((look) => look());
    });
    // The server does not confirm a subscription: publish until the echo arrives.
    const call = randomUUID();
    const again = setInterval(() => this.sdk.pubsub.publish(room.id, { call }), 50);
    await this.hears((news) => news.call === call);
    clearInterval(again);
  }

  /** Resolves with the first piece of news that satisfies a condition, past or future. */
  hears(condition) {
    return new Promise((resolve) => {
      const look = () => {
        const news = this.heard.find(condition);
        if (news) resolve(news);
        else this.waiting.push(look);
      };
      look();
    });
  }

  /** Fetches an announced message. A channel only says that one exists: anybody can publish there. */
  async read(id) {
    const query = new skygear.Query(Message);
    query.equalTo('_id', id.replace('message/', ''));
    const [message] = await this.sdk.publicDB.query(query);
    return message;
  }

  say(room, text) {
    const message = new Message({ room: new this.sdk.Reference(room), text });
    return this.sdk.publicDB.save(message);
  }
}

async function serverIsReady() {
  for (;;) {
    const answer = await fetch(new URL('_status/healthz', END_POINT)).catch(() => null);
    if (answer && answer.ok) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function chat() {
  await serverIsReady();
  const [ada, ben] = [new Person('ada'), new Person('ben')];
  await Promise.all([ada.signUp(), ben.signUp()]);

  const room = await ada.sdk.publicDB.save(new Room({ title: 'engines' }));
  await Promise.all([ada.enter(room), ben.enter(room)]);

  const lines = [
    [ada, 'Does it run yet?'],
    [ben, 'It does. Every write is an event.'],
    [ada, 'Then I can look back.'],
  ];
  for (const [speaker, text] of lines) {
    const saved = await speaker.say(room, text);
    assert.strictEqual(saved.word_count, text.split(' ').length);
    for (const listener of [ada, ben]) {
      const { event, id } = await listener.hears((it) => it.id === saved.id);
      assert.strictEqual(event, 'sent');
      const message = await listener.read(id);
      assert.strictEqual(message.text, text);
      assert.strictEqual(message.ownerID, speaker.user._id);
    }
  }

  const refusal = await ben.say(room, '   ').then(() => null, (error) => error);
  assert.ok(refusal, 'an empty message was taken');
  assert.strictEqual(refusal.code, INVALID_ARGUMENT);

  const query = new skygear.Query(Message);
  query.equalTo('room', new ben.sdk.Reference(room));
  query.addAscending('_created_at');
  query.overallCount = true;
  const found = await ben.sdk.publicDB.query(query);
  assert.deepStrictEqual(found.map((it) => it.text), lines.map(([, text]) => text));
  assert.strictEqual(found.overallCount, lines.length);

  const statistics = await ada.sdk.lambda('chat:statistics', { room: room.id });
  const words = lines.map(([, text]) => text.split(' ').length).reduce((a, b) => a + b);
  assert.deepStrictEqual(statistics, { messages: lines.length, words });

  const nameOf = (id) => [ada, ben].find((it) => it.user._id === id).name;
  console.log(`# ${room.title}`);
  found.forEach((it) => console.log(`${nameOf(it.ownerID)}: ${it.text} (${it.word_count} words)`));
  console.log(`ben, refused: ${refusal.message}`);
  console.log(`${statistics.messages} messages, ${statistics.words} words`);
}

setTimeout(() => {
  console.error(`not done within ${TIME_LIMIT_MS} ms`);
  process.exit(1);
}, TIME_LIMIT_MS);

chat().then(
  () => process.exit(0),
  (error) => {
    console.error(error && error.error ? error.error : error);
    process.exit(1);
  },
);
