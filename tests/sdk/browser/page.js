// Drives the SDK's published bundle against a server of another origin. The fragment after `#` has the
// endpoint and the client key.
'use strict';

const [endPoint, apiKey] = decodeURIComponent(location.hash.slice(1)).split(' ');
const report = document.getElementById('report');

function same(seen, expected) {
  const [left, right] = [JSON.stringify(seen), JSON.stringify(expected)];
  if (left !== right) throw new Error(`${left} is not ${right}`);
}

async function application() {
  const app = new skygear.constructor();
  await app.config({ endPoint, apiKey });
  return app;
}

const Note = skygear.Record.extend('browser_note');
const username = `browser-${Math.random().toString(36).slice(2)}`;

const checks = {
  async 'the server is of another origin'() {
    if (new URL(endPoint).origin === location.origin) throw new Error(endPoint);
  },

  async 'a user signs up, and the browser keeps the session'() {
    await skygear.config({ endPoint, apiKey });
    const user = await skygear.auth.signupWithUsername(username, 'pw');
    same(user.username, username);
    same(localStorage.getItem('skygear-accesstoken'), skygear.auth.accessToken);
  },

  async 'a record is saved and found'() {
    const at = new Date('2020-02-02T02:02:02.222Z');
    const note = new Note({ text: 'from a browser', at, n: 1 });
    note.place = new skygear.Geolocation(22.25, 114.125);
    const saved = await skygear.publicDB.save(note);
    const query = new skygear.Query(Note).equalTo('_id', saved._id);
    query.overallCount = true;
    const found = await skygear.publicDB.query(query);
    same(found.overallCount, 1);
    same([found[0].text, found[0].at, found[0].place], ['from a browser', at, note.place]);
    same(found[0].ownerID, skygear.auth.currentUser._id);
  },

  async 'a refusal can be read from another origin'() {
    const app = await application();
    const refusal = await app.auth.loginWithUsername(username, 'no').then(() => null, (e) => e);
    same([refusal.status, refusal.error.code], [401, 105]);
  },

  async 'a file is uploaded from a blob and read again'() {
    const blob = new Blob(['bytes of a ', new Uint8Array([98, 108, 111, 98])], { type: 'text/plain' });
    const file = new skygear.Asset({ name: 'b.txt', file: blob });
    const saved = await skygear.publicDB.save(new Note({ text: 'with a file', file }));
    const response = await fetch(saved.file.url);
    same([response.status, await response.text()], [200, 'bytes of a blob']);
    const base64 = btoa('bytes in base64');
    const text = new skygear.Asset({ name: 't.txt', base64, contentType: 'text/plain' });
    const uploaded = await skygear.publicDB.uploadAsset(text);
    same(await (await fetch(uploaded.url)).text(), 'bytes in base64');
  },

  async 'a message arrives'() {
    const [listener, speaker] = [await application(), await application()];
    const heard = [];
    const arrived = new Promise((resolve) => {
      listener.pubsub.on('room', (message) => {
        heard.push(message);
        if (message.probe) speaker.pubsub.publish('room', { text: 'hello' });
        else resolve();
      });
    });
    // Hearing one's own message shows that the subscription has begun.
    listener.pubsub.publish('room', { probe: true });
    await arrived;
    same(heard, [{ probe: true }, { text: 'hello' }]);
  },

  async 'another page goes on with the session'() {
    await skygear.privateDB.save(new Note({ text: 'private' }));
    const frame = document.createElement('iframe');
    frame.src = `/again.html#${encodeURIComponent(`${endPoint} ${apiKey}`)}`;
    const seen = await new Promise((resolve) => {
      addEventListener('message', (event) => resolve(event.data), { once: true });
      document.body.append(frame);
    });
    same(seen, { user: skygear.auth.currentUser._id, notes: 1 });
  },

  async 'a logout takes the session out of the browser'() {
    await skygear.auth.logout();
    same(localStorage.getItem('skygear-accesstoken'), null);
    same(skygear.auth.currentUser, null);
  },
};

async function main() {
  const lines = [];
  for (const [name, check] of Object.entries(checks)) {
    const why = await check().then(() => null, (error) => error.stack || JSON.stringify(error));
    lines.push(why === null ? `ok\t${name}` : `failed\t${name}\t${why.replace(/\s+/g, ' ')}`);
    report.textContent = lines.join('\n');
  }
  report.textContent = [...lines, 'end'].join('\n');
  await fetch('/reported', { method: 'POST' });
}

main();
