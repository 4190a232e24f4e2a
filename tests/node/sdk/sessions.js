// A session outlives the program: each step is a separate program with the same local storage.
'use strict';

const assert = require('node:assert/strict');
const { fork } = require('node:child_process');
const { mkdtempSync, readFileSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { Group, once } = require('./harness');
const { unique } = require('./world');

const group = new Group('sessions');
const TOKEN = 'skygear-accesstoken';

const device = once(() => {
  const folder = mkdtempSync(path.join(tmpdir(), 'skytrail-sdk-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return { file: path.join(folder, 'local-storage.json'), username: unique('nomad') };
});

const stored = () => JSON.parse(readFileSync(device().file, 'utf8'));

/** Runs one step in a separate program and returns what it saw. */
function program(step) {
  const { file, username } = device();
  return new Promise((resolve, reject) => {
    const child = fork(path.join(__dirname, 'session_step.js'), [step, file, username]);
    let seen;
    child.on('message', (message) => {
      seen = message;
    });
    child.on('error', reject);
    child.on('exit', (code) => {
      if (code === 0) resolve(seen);
      else reject(new Error(`${step} ended with ${code}`));
    });
  });
}

let first;

group.check('signing up stores user, token, and device', async () => {
  first = await program('sign-up');
  assert.ok(first.user);
  assert.equal(stored()[TOKEN], first.token);
  assert.equal(JSON.parse(stored()['skygear-user'])._id, `user/${first.user}`);
});

group.check('the next program is the same user with the same token', async () => {
  const next = await program('resume');
  assert.equal(next.user, first.user);
  assert.equal(next.token, first.token);
  assert.equal(next.owner, first.user);
});

group.check('a new token is stored for the programs after', async () => {
  const next = await program('whoami');
  assert.equal(next.user, first.user);
  assert.notEqual(next.token, first.token);
  assert.equal(stored()[TOKEN], next.token);
  const after = await program('resume');
  assert.equal(after.token, next.token);
  assert.equal(after.user, first.user);
});

group.check('after a logout nothing is left for the next program', async () => {
  await program('logout');
  assert.equal(stored()[TOKEN], undefined);
  const next = await program('look');
  assert.deepEqual(next, { user: null, token: null });
});

group.check('a refused token is forgotten in the storage, too', async () => {
  const back = await program('login');
  assert.equal(back.user, first.user);
  const spoilt = await program('spoil');
  assert.equal(spoilt.code, 104);
  const next = await program('look');
  assert.deepEqual(next, { user: null, token: null });
});

module.exports = group;
