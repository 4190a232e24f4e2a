import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Backoff, isFinal, isSessionLost, retryAfterMs } from '../src/backoff.js';

test('pauses double after a minute, up to half a minute, and begin anew', () => {
  const backoff = new Backoff(() => 1);
  assert.equal(backoff.pauseMs({}), 1000);
  for (let ms = 1000; ms < 60_000; ms += 2000) assert.equal(backoff.pauseMs({}), 2000);
  const pauses = Array.from({ length: 5 }, () => backoff.pauseMs({}));
  assert.deepEqual(pauses, [4000, 8000, 16000, 30000, 30000]);
  backoff.reset();
  assert.equal(backoff.pauseMs({}), 1000);
  assert.equal(new Backoff(() => 0.25).pauseMs({}), 250);
});

test('a wrong key and a broken protocol wait half a minute at least', () => {
  const backoff = new Backoff(() => 0);
  for (const ending of [{ status: 401 }, { status: 403 }, { status: 426 }, { closeCode: 4002 }]) {
    assert.equal(backoff.pauseMs(ending), 30_000);
  }
});

test('after a restart the workers spread, by how many there are', () => {
  const pauseMs = (numWorkers) => {
    const backoff = new Backoff(() => 1);
    backoff.numWorkers = numWorkers;
    return backoff.pauseMs({ closeCode: 1012 });
  };
  assert.deepEqual([1, 2, 101, 10_000].map(pauseMs), [0, 20, 2000, 5000]);
  // A server that does not say how many.
  assert.equal(pauseMs(undefined), 5000);
});

test('a server that restarts is tried quickly for a while, then as any other', () => {
  const backoff = new Backoff(() => 1);
  backoff.numWorkers = 1;
  assert.equal(backoff.pauseMs({ closeCode: 1012 }), 0);
  for (let ms = 0; ms < 15_000; ms += 200) assert.equal(backoff.pauseMs({}), 200);
  assert.deepEqual([backoff.pauseMs({}), backoff.pauseMs({})], [1000, 2000]);

  const many = new Backoff(() => 0);
  many.numWorkers = 51;
  assert.equal(many.pauseMs({ closeCode: 1012 }), 0);
  assert.equal(many.pauseMs({}), 500);
  assert.equal(many.pauseMs({ status: 503, retryAfterMs: 5000 }), 5500);

  // What the last server said does not count for the next.
  backoff.reset();
  assert.equal(backoff.pauseMs({}), 1000);
  assert.equal(backoff.pauseMs({ closeCode: 1012 }), 5000);
});

test('a busy server says how long', () => {
  const texts = ['7', undefined, '-1', 'soon', 'Wed, 21 Oct 2026 07:28:00 GMT'];
  assert.deepEqual(texts.map(retryAfterMs), [7000, 0, 0, 0, 0]);
  assert.equal(new Backoff(() => 0).pauseMs({ status: 503, retryAfterMs: 7000 }), 7000);
});

test('some codes are final, after some there is no session', () => {
  const codes = [1000, 1009, 1012, 1013, 4002, 4003, 4004, 4005, 4006, 4007, 4008, 4010, undefined];
  const those = (is) => codes.filter((closeCode) => is({ closeCode }));
  assert.deepEqual(those(isFinal), [4003, 4004, 4005, 4007]);
  assert.deepEqual(those(isSessionLost), [1000, 1009, 1012, 1013, 4002, 4008]);
});
