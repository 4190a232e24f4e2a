import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Turns } from '../src/calls.js';

const LONG_MS = 600_000;

test('calls get a place at any level', () => {
  for (const max of [1, 64, 65_536]) {
    for (const level of [0, 1, 30, 31, 32, 63, 64, 2000]) {
      assert.ok(new Turns(max).tryTake(level), `max ${max}, level ${level}`);
    }
  }
});

test('many wait at the cost of few, and get their turns in order', async () => {
  let numTries = 0;
  class Counted extends Turns {
    tryTake(level) {
      numTries += 1;
      return super.tryTake(level);
    }
  }
  const turns = new Counted(1);
  assert.ok(turns.tryTake(0));
  const order = [];
  const controller = new AbortController();
  const leaving = [0, 1, 200, 399];
  const calls = Array.from({ length: 400 }, async (_, number) => {
    const signals = leaving.includes(number) ? [controller.signal] : [];
    assert.ok(await turns.wait(number % 2, LONG_MS, signals));
    order.push(number);
    turns.end();
  });
  // Whoever does not wait any more holds up nobody.
  controller.abort();
  turns.end();
  await Promise.allSettled(calls);
  assert.ok(numTries < 4 * 400, `${numTries} tries`);
  // What is deeper goes first: the others may wait for it.
  const staying = [...calls.keys()].filter((number) => !leaving.includes(number));
  const [outer, deep] = [0, 1].map((level) => staying.filter((number) => number % 2 === level));
  assert.deepEqual(order, [...deep, ...outer]);
});
