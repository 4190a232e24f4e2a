import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Backoff, isFinal, isSessionLost } from '../src/backoff.js';

test('pauses double up to half a minute, and begin anew', () => {
  const backoff = new Backoff(() => 1);
  const pauses = Array.from({ length: 7 }, () => backoff.pauseMs({}));
  assert.deepEqual(pauses, [1000, 2000, 4000, 8000, 16000, 30000, 30000]);
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

test('a restart is waited for up to five seconds; a busy server says how long', () => {
  assert.equal(new Backoff(() => 1).pauseMs({ closeCode: 1012 }), 5000);
  assert.equal(new Backoff(() => 0).pauseMs({ status: 503, retryAfterMs: 7000 }), 7000);
});

test('some codes are final, after some there is no session', () => {
  const codes = [1000, 1009, 1012, 1013, 4002, 4003, 4004, 4005, 4006, 4007, 4008, 4010, undefined];
  const those = (is) => codes.filter((closeCode) => is({ closeCode }));
  assert.deepEqual(those(isFinal), [4003, 4004, 4005, 4007]);
  assert.deepEqual(those(isSessionLost), [1000, 1009, 1012, 1013, 4002, 4008]);
});
