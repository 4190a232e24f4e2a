// Files up and down.
'use strict';

const assert = require('node:assert/strict');
const { createHash, randomBytes } = require('node:crypto');
const { Group, once, refused } = require('./harness');
const { application, person, query, record, skygear } = require('./world');

const group = new Group('files');
const { Asset, ErrorCodes, Reference } = skygear;

const ada = once(() => person('ada'));
const text = (name, content) => new Asset({
  name,
  file: Buffer.from(content),
  contentType: 'text/plain',
});

/** Fetches a file as a browser does. */
async function download(asset) {
  const response = await fetch(asset.url);
  return {
    status: response.status,
    type: response.headers.get('content-type'),
    bytes: Buffer.from(await response.arrayBuffer()),
  };
}

group.check('a file of a record is uploaded with it and downloaded from it', async () => {
  const app = await ada();
  const saved = await app.publicDB.save(record('filed', { file: text('a.txt', 'hello') }));
  assert.ok(saved.file instanceof Asset);
  assert.match(saved.file.name, /^[0-9a-f-]{36}-a\.txt$/);
  const got = await download(saved.file);
  assert.deepEqual([got.status, got.bytes.toString()], [200, 'hello']);
  assert.ok(got.type.startsWith('text/plain'), got.type);
});

group.check('who reads the record can read the file', async () => {
  const saved = await (await ada()).publicDB.save(record('filed', { file: text('b.txt', 'b') }));
  const reader = await person('reader');
  const { file } = await reader.publicDB.getRecordByID(saved.id);
  assert.equal(file.name, saved.file.name);
  assert.equal(file.contentType, 'text/plain');
  assert.equal((await download(file)).bytes.toString(), 'b');
});

group.check('a file is uploaded by itself and saved later', async () => {
  const app = await ada();
  const asset = await app.publicDB.uploadAsset(text('c.txt', 'c'));
  assert.equal(asset.contentType, 'text/plain');
  const saved = await app.publicDB.save(record('filed', { file: asset }));
  assert.equal(saved.file.name, asset.name);
  assert.equal((await download(saved.file)).bytes.toString(), 'c');
});

group.check('the databases of an application upload, too', async () => {
  const app = await ada();
  const asset = await new app.DatabaseContainer(app).uploadAsset(text('c.txt', 'again'));
  assert.equal((await download(asset)).bytes.toString(), 'again');
});

group.check('an empty file is refused', async () => {
  const empty = text('none.txt', '');
  await assert.rejects((await ada()).publicDB.uploadAsset(empty), (error) => error.status === 400);
});

group.check('a file in base64', async () => {
  const asset = new Asset({
    name: 'd.bin',
    base64: Buffer.from([0, 255, 10, 13]).toString('base64'),
    contentType: 'application/octet-stream',
  });
  const saved = await (await ada()).publicDB.save(record('filed', { file: asset }));
  assert.deepEqual(Array.from((await download(saved.file)).bytes), [0, 255, 10, 13]);
});

group.check('a large file comes back byte by byte', async () => {
  const bytes = randomBytes(3 * 1024 * 1024);
  const asset = new Asset({ name: 'e.bin', file: bytes, contentType: 'image/png' });
  const saved = await (await ada()).publicDB.save(record('filed', { file: asset }));
  const got = await download(saved.file);
  const digest = (data) => createHash('sha256').update(data).digest('hex');
  assert.equal(got.type, 'image/png');
  assert.equal(digest(got.bytes), digest(bytes));
});

group.check('a name with spaces and letters of any language', async () => {
  const name = 'naïve plan & 日本.txt';
  const saved = await (await ada()).publicDB.save(record('filed', { file: text(name, 'n') }));
  assert.ok(saved.file.name.endsWith(`-${name}`), saved.file.name);
  assert.equal((await download(saved.file)).bytes.toString(), 'n');
});

group.check('files of many records and inside objects', async () => {
  const app = await ada();
  const { savedRecords } = await app.publicDB.save([
    record('filed', { file: text('f.txt', 'f') }),
    record('filed', { file: text('g.txt', 'g'), other: text('h.txt', 'h') }),
  ]);
  const contents = [savedRecords[0].file, savedRecords[1].file, savedRecords[1].other];
  const got = await Promise.all(contents.map(download));
  assert.deepEqual(got.map((each) => each.bytes.toString()), ['f', 'g', 'h']);
});

group.check('the file of a record that is read along', async () => {
  const app = await ada();
  const folder = await app.publicDB.save(record('filed', { file: text('i.txt', 'i') }));
  const page = await app.publicDB.save(record('filed_page', { folder: new Reference(folder) }));
  const question = query('filed_page').equalTo('_id', page._id).transientInclude('folder');
  const [found] = await app.publicDB.query(question);
  assert.equal((await download(found.$transient.folder.file)).bytes.toString(), 'i');
});

group.check('a file goes to a lambda and comes back', async () => {
  const app = await ada();
  const { args } = await app.lambda('sdk:echo', { file: text('j.txt', 'j') });
  assert.ok(args.file instanceof Asset);
  assert.equal((await download(args.file)).bytes.toString(), 'j');
});

group.check('an address that was changed is refused', async () => {
  const asset = await (await ada()).publicDB.uploadAsset(text('k.txt', 'k'));
  const address = new URL(asset.url);
  address.searchParams.set('expiredAt', '4102444800');
  const response = await fetch(address);
  assert.equal(response.status, 401);
  assert.equal((await response.json()).error.code, ErrorCodes.InvalidSignature);
});

group.check('an address without a signature is refused', async () => {
  const asset = await (await ada()).publicDB.uploadAsset(text('l.txt', 'l'));
  const response = await fetch(asset.url.split('?')[0]);
  assert.ok(response.status >= 400, `${response.status}`);
});

group.check('a file without a content type never leaves the application', async () => {
  assert.throws(() => new Asset({ name: 'm', file: Buffer.from('m') }), /ContentType/);
  assert.throws(() => new Asset({ file: Buffer.from('m') }), /Name/);
});

group.check('a file that was never uploaded is refused', async () => {
  const missing = new Asset({ name: 'none.txt', contentType: 'text/plain' });
  const saving = record('filed', { file: missing });
  await assert.rejects((await ada()).publicDB.save(saving), (error) => error._id === saving.id);
});

group.check('an upload needs a key that is known', async () => {
  const upload = application('wrong').publicDB.uploadAsset(text('o.txt', 'o'));
  await refused(ErrorCodes.AccessKeyNotAccepted, upload);
});

module.exports = group;
