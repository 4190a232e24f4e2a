// Random histories, with breaks anywhere: what a query shows is always what the model says of its
// position, and in the end what the model says of now.
//
// `SKYTRAIL_LIVE_CASES` sets how many histories are played, `SKYTRAIL_LIVE_SEED` where they begin.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Dice, Log, Subscription } from './model.js';
import { start } from './stub.js';

const { SKYTRAIL_LIVE_CASES: CASES = 150, SKYTRAIL_LIVE_SEED: SEED } = process.env;
const STEPS = 1000;
/** What the queries ask for; there is no place for one of them. */
const MOST = [9, 6, 3, 2];
const MAX_SUBSCRIPTIONS = 3;

/** A connection, as the server has it. */
class Connection {
  subscriptions = new Map();
  /** Frames that have not arrived yet. */
  outbox = [];
  isSilent = false;

  constructor(world, socket) {
    Object.assign(this, { world, socket });
    this.user = new URL(socket.url).searchParams.get('access_token');
    socket.took = (frame) => this.#take(frame);
  }

  #take({ action, id, record_type: type, ...asked }) {
    const { world, subscriptions, outbox } = this;
    if (action === 'live:ping') return outbox.push({ event: 'pong' });
    if (action === 'live:unsubscribe') {
      if (subscriptions.delete(id)) outbox.push({ id, event: 'end' });
      return undefined;
    }
    assert(!world.ids.has(id), `${id} is used twice`);
    world.ids.add(id);
    if (subscriptions.size === MAX_SUBSCRIPTIONS) {
      const info = { limit: { name: 'LIVE_MAX_SUBSCRIPTIONS', max: MAX_SUBSCRIPTIONS } };
      return outbox.push({ id, event: 'error', error: { code: 108, message: 'full', info } });
    }
    const say = (frame) => outbox.push({ id, ...frame });
    const query = { ...asked, most: Number(type), user: this.user };
    return subscriptions.set(id, new Subscription(world.log, query, say));
  }

  advance(dice) {
    if (!this.subscriptions.size) return;
    const [id, subscription] = dice.pick([...this.subscriptions]);
    if (!subscription.advance()) this.subscriptions.delete(id);
  }

  /** Some error that comes again. */
  fail(dice) {
    if (!this.subscriptions.size) return;
    const [id] = dice.pick([...this.subscriptions]);
    this.subscriptions.delete(id);
    this.outbox.push({ id, event: 'error', error: { code: 108, message: 'too many', info: {} } });
  }

  deliver(number) {
    if (!this.isSilent) this.socket.say(...this.outbox.splice(0, number));
  }
}

/** Somebody who follows a query, and checks all that it shows. */
class Follower {
  #ends = [];

  constructor(world, most) {
    this.world = world;
    this.most = most;
    const compare = (a, b) => (a._id < b._id ? -1 : 1);
    this.query = world.server.client.query({ record_type: String(most) }, { compare });
  }

  get isThere() {
    return this.#ends.length > 0;
  }

  join() {
    /** What the changes make of nothing. */
    this.told = new Map();
    this.#ends = [
      this.query.onChange(({ entered, changed, left }) => {
        for (const { _id: id } of entered) assert(!this.told.has(id), `${id} entered twice`);
        for (const { _id: id } of [...changed, ...left]) assert(this.told.has(id), `${id} never entered`);
        for (const record of [...entered, ...changed]) this.told.set(record._id, record);
        for (const { _id: id } of left) this.told.delete(id);
      }),
      this.query.subscribe((snapshot) => this.#check(snapshot))
    ];
  }

  leave() {
    this.#ends.forEach((end) => end());
    this.#ends = [];
  }

  #check({ records, isReady, position }) {
    const { log, user } = this.world;
    assert.deepEqual([...this.told.values()].sort(byId), records);
    if (!isReady) return assert.deepEqual(records, []);
    const views = log.views(user, this.most, position).map(sorted);
    const isOne = views.some((view) => JSON.stringify(view) === JSON.stringify(records));
    if (!isOne) assert.deepEqual(records, views.at(-1), `n <= ${this.most} at ${position}`);
    this.world.numChecked += 1;
    return undefined;
  }

  /** Whether it shows what there is now. */
  isCurrent() {
    const { log, user } = this.world;
    const { records, isStale } = this.query.snapshot();
    return !isStale && JSON.stringify(records) === JSON.stringify(sorted(log.view(user, this.most, log.head)));
  }
}

const byId = (a, b) => (a._id < b._id ? -1 : 1);
const sorted = (view) => [...view.values()].sort(byId);

class World {
  ids = new Set();
  numChecked = 0;
  user = 'ada';
  connection = null;

  constructor(t, seed) {
    this.dice = new Dice(seed);
    this.log = new Log(this.dice);
    this.server = start(t);
    Math.random.mock.mockImplementation(() => this.dice.below(1000) / 1000);
    this.followers = MOST.map((most) => new Follower(this, most));
  }

  /** The connection if it is open, for the client. */
  get open() {
    const { socket } = this.server;
    return socket && !socket.isClosed && socket.isOpen ? this.connection : null;
  }

  get opening() {
    const { socket } = this.server;
    return socket && !socket.isClosed && !socket.isOpen ? socket : null;
  }

  step() {
    const { dice, log, server, open, opening } = this;
    const what = dice.below(100);
    if (what < 20) log.act();
    else if (what < 45) open?.advance(dice);
    else if (what < 75) open?.deliver(1 + dice.below(6));
    else if (what < 82) server.pass(dice.pick([1, 20, 100, 700, 3000, 20_000]));
    else if (what < 92) this.#openOrNot(opening);
    else if (what < 94) this.cut();
    else if (what < 97) this.#comeOrGo();
    else this.#beTrouble(dice, open);
    if (dice.once(2)) server.pass();
  }

  /** What is rare. */
  #beTrouble(dice, open) {
    const what = dice.below(8);
    if (what === 0) this.#putBack();
    else if (what === 1) this.#switchUser();
    else if (what === 2) open?.fail(dice);
    else if (what === 3 && open) open.isSilent = true;
  }

  accept(socket) {
    this.connection = new Connection(this, socket);
    socket.open();
  }

  #openOrNot(socket) {
    if (!socket) return;
    if (this.dice.once(4)) socket.end();
    else this.accept(socket);
  }

  cut() {
    const { socket } = this.server;
    // A lost connection, a server that stops, a client that is too slow.
    if (this.open) socket.end(this.dice.pick([1006, 1001, 1008]));
  }

  #comeOrGo() {
    const follower = this.dice.pick(this.followers);
    if (!follower.isThere) follower.join();
    else if (this.dice.once(3)) {
      follower.leave();
      follower.query.close();
    } else follower.leave();
  }

  #putBack() {
    this.cut();
    this.opening?.end();
    this.log.putBack();
  }

  #switchUser() {
    this.user = this.user === 'ada' ? 'ben' : 'ada';
    this.server.client.setAccessToken(this.user);
    for (const { query } of this.followers) assert.deepEqual(query.snapshot().records, []);
  }

  /** Nothing happens any more, and nothing breaks. */
  settle() {
    const [spare, ...others] = this.followers;
    spare.leave();
    for (const follower of others) {
      // Asks again after an error.
      follower.leave();
      follower.query.close();
      follower.join();
    }
    spare.query.close();
    for (let turn = 0; turn < 300; turn += 1) {
      if (this.opening) this.accept(this.opening);
      // Each has so many events to tell at most.
      for (let n = 0; n < 3 * STEPS && this.open?.subscriptions.size; n += 1) this.open.advance(this.dice);
      this.open?.deliver(Infinity);
      this.server.pass();
      if (others.every((it) => it.isCurrent())) return;
      this.server.pass(1000);
    }
    for (const { query, most } of others) {
      const { log, user } = this;
      assert.deepEqual(query.snapshot().records, sorted(log.view(user, most, log.head)), `n <= ${most}`);
    }
    assert.fail('a query stays behind');
  }
}

for (const [name, seed] of [['fixed', 20_160_908], ['random', Date.now() % 1_000_000_000]]) {
  test(`what is shown is what the model says: ${name} seeds`, (t) => {
    const first = Number(SEED ?? seed);
    let numChecked = 0;
    for (let at = first; at < first + Number(CASES); at += 1) {
      try {
        numChecked += play(t, at);
      } catch (error) {
        error.message = `SKYTRAIL_LIVE_SEED=${at} SKYTRAIL_LIVE_CASES=1: ${error.message}`;
        throw error;
      }
      t.mock.reset();
      t.mock.timers.reset();
    }
    t.diagnostic(`${numChecked} snapshots were compared`);
    assert(numChecked > 20 * Number(CASES));
  });
}

/** Plays a history; returns how many snapshots were compared. */
function play(t, seed) {
  const world = new World(t, seed);
  world.followers.forEach((it) => it.join());
  for (let step = 0; step < STEPS; step += 1) world.step();
  world.settle();
  world.server.client.close();
  return world.numChecked;
}
