// One program run in the life of a session; its local storage is a file:
//
//   node session_step.js STEP FILE USERNAME
'use strict';

const { existsSync, readFileSync, writeFileSync } = require('node:fs');

const [step, file, username] = process.argv.slice(2);

/** A browser's local storage, kept in a file. */
class FileStorage {
  constructor() {
    this.items = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  }

  get length() {
    return Object.keys(this.items).length;
  }

  key(index) {
    return Object.keys(this.items)[index] ?? null;
  }

  getItem(key) {
    return this.items[key] ?? null;
  }

  setItem(key, value) {
    this.items[key] = String(value);
    this.write();
  }

  removeItem(key) {
    delete this.items[key];
    this.write();
  }

  clear() {
    this.items = {};
    this.write();
  }

  write() {
    writeFileSync(file, JSON.stringify(this.items));
  }
}

// The SDK looks for it when it first needs it.
global.window = { localStorage: new FileStorage() };
const skygear = require('skygear');

const { auth } = skygear;
const session = () => ({
  user: auth.currentUser && auth.currentUser._id,
  token: auth.accessToken,
});

const steps = {
  async 'sign-up'() {
    await auth.signupWithUsername(username, 'pw');
  },
  async resume() {
    const Note = skygear.Record.extend('session_note');
    const note = await skygear.publicDB.save(new Note({ text: 'from another program' }));
    return { owner: note.ownerID };
  },
  async whoami() {
    await auth.whoami();
  },
  async logout() {
    await auth.logout();
  },
  async look() {},
  async login() {
    await auth.loginWithUsername(username, 'pw');
  },
  async spoil() {
    window.localStorage.setItem('skygear-accesstoken', 'no.such.token');
    await auth._getAccessToken();
    const thrown = await auth.whoami().then(() => null, (error) => error);
    return { code: thrown && thrown.error.code };
  },
};

async function main() {
  const { SKYGEAR_ENDPOINT, API_KEY } = process.env;
  await skygear.config({ endPoint: SKYGEAR_ENDPOINT, apiKey: API_KEY });
  const more = await steps[step]();
  process.send({ ...session(), ...more }, () => process.exit(0));
}

main().catch((error) => {
  console.error(step, error);
  process.exit(1);
});
