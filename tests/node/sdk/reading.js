// Order, pages, counts, included records, and the local cache.
'use strict';

const assert = require('node:assert/strict');
const { Group, refused } = require('./harness');
const { query, record, skygear, unique } = require('./world');
const { HERE, ask, library, names } = require('./library');

const group = new Group('reading');
const { ErrorCodes, Geolocation } = skygear;

// Name, the query, and the books in its order; a missing value sorts as the greatest.
const ORDERS = [
  ['ascending', () => ask().addAscending('pages'), 'ABCD'],
  ['descending', () => ask().addDescending('pages'), 'DCBA'],
  ['by two fields', () => ask().notEqualTo('genre', null).addDescending('genre').addDescending('pages'), 'CBA'],
  ['by a date', () => ask().notEqualTo('pages', null).addDescending('published'), 'CBA'],
  ['by text', () => ask().like('title', '%a%').addDescending('name'), 'CBA'],
  ['by time of creation', () => ask().addAscending('_created_at'), 'ABCD'],
  ['nearest first', () => ask().notEqualTo('pages', null).addAscendingByDistance('spot', HERE), 'ABC'],
  ['furthest first', () => ask().notEqualTo('pages', null).addDescendingByDistance('spot', HERE), 'CBA'],
];

for (const [name, question, expected] of ORDERS) {
  group.check(`order: ${name}`, async () => {
    await library();
    assert.equal(await names(question()), expected);
  });
}

/** Asks for books by name, changed. */
async function page(change) {
  const question = ask().addAscending('name');
  Object.assign(question, change);
  return names(question);
}

group.check('limit and offset', async () => {
  await library();
  assert.equal(await page({ limit: 2 }), 'AB');
  assert.equal(await page({ limit: 2, offset: 1 }), 'BC');
  assert.equal(await page({ limit: 2, offset: 3 }), 'D');
  assert.equal(await page({ limit: 2, offset: 9 }), '');
});

group.check('pages', async () => {
  await library();
  assert.equal(await page({ limit: 3, page: 1 }), 'ABC');
  assert.equal(await page({ limit: 3, page: 2 }), 'D');
  assert.equal(await page({ limit: 3, page: 3 }), '');
});

group.check('fifty at once, unless asked otherwise', async () => {
  const { app } = await library();
  const mark = unique('many');
  const all = Array.from({ length: 60 }, (_, n) => record('read_many', { mark, n }));
  await app.publicDB.save(all);
  const question = query('read_many').equalTo('mark', mark).addAscending('n');
  assert.equal((await app.publicDB.query(question)).length, 50);
  question.page = 2;
  const rest = await app.publicDB.query(question);
  assert.deepEqual(Array.from(rest, (each) => each.n), [50, 51, 52, 53, 54, 55, 56, 57, 58, 59]);
});

group.check('the count is of all that match, whatever the page', async () => {
  const { app } = await library();
  const question = ask().notEqualTo('pages', null);
  question.overallCount = true;
  for (const [limit, offset, length] of [[2, 0, 2], [2, 2, 1], [2, 8, 0]]) {
    Object.assign(question, { limit, offset });
    const found = await app.publicDB.query(question);
    assert.equal(found.length, length);
    assert.equal(found.overallCount, 3);
  }
  question.overallCount = false;
  assert.equal((await app.publicDB.query(question)).overallCount, undefined);
});

/** Returns the names of the records included with the books. */
async function along(change) {
  const { app } = await library();
  const found = await app.publicDB.query(change(ask().addAscending('name')));
  return Object.fromEntries(Array.from(found, (book) => [book.name, book.$transient]));
}

group.check('a record referred to is read along', async () => {
  const seen = await along((q) => q.transientInclude('author'));
  assert.equal(seen.A.author.recordType, 'library_author');
  assert.equal(seen.A.author.name, 'ash');
  assert.equal(seen.B.author.name, 'birch');
  assert.equal(seen.D.author, null);
});

group.check('it is read along under another name', async () => {
  const seen = await along((q) => q.transientInclude('author', 'writer'));
  assert.deepEqual(Object.keys(seen.A), ['writer']);
  assert.equal(seen.A.writer.name, 'ash');
});

group.check('the owner is read along', async () => {
  const { app } = await library();
  const seen = await along((q) => q.transientInclude('_owner', 'owner'));
  assert.equal(seen.A.owner.id, app.auth.currentUser.id);
  assert.equal(seen.D.owner.username, app.auth.currentUser.username);
});

group.check('the distance is read along', async () => {
  const there = new Geolocation(22.283, 115.15);
  const seen = await along((q) => q.transientIncludeDistance('spot', 'away', there));
  // One degree of longitude at this latitude, on the sphere.
  assert.ok(Math.abs(seen.A.away - 102890) < 300, `${seen.A.away}`);
  assert.ok(seen.C.away > 1e7);
  assert.ok(!('away' in seen.D));
});

group.check('several are read along at once', async () => {
  const seen = await along((q) => q
    .transientInclude('author')
    .transientInclude('_created_by', 'maker')
    .transientIncludeDistance('spot', 'away', HERE));
  assert.equal(seen.B.author.name, 'birch');
  assert.ok(seen.B.maker.id.startsWith('user/'));
  assert.ok(seen.A.away < 1);
});

group.check('reading along does not change the record', async () => {
  const { app, books } = await library();
  const [book] = await app.publicDB.query(
    ask().equalTo('name', 'A').transientInclude('author'),
  );
  book.title = 'Tale of Ash';
  await app.publicDB.save(book);
  assert.equal(book.$transient.author.name, 'ash');
  const plain = await app.publicDB.getRecordByID(books.A.id);
  assert.deepEqual(plain.$transient, {});
});

group.check('the cache answers first, the server after', async () => {
  const { app } = await library();
  const question = () => ask().addAscending('name');
  await app.publicDB.query(question());
  let isFirst = null;
  let cached;
  const callback = new Promise((resolve) => {
    cached = (result, isCached) => {
      isFirst = isFirst === null;
      resolve({ isCached, names: Array.from(result, (book) => book.name).join('') });
    };
  });
  const fresh = await app.publicDB.query(question(), cached);
  assert.equal(isFirst, true);
  assert.deepEqual(await callback, { isCached: true, names: 'ABCD' });
  assert.equal(fresh.length, 4);
  await app.clearCache();
});

group.check('nothing is kept by who wants no cache', async () => {
  const { app } = await library();
  const databases = new app.DatabaseContainer(app);
  assert.equal(databases.cacheResponse, true);
  databases.cacheResponse = false;
  const { public: database, private: own } = databases;
  assert.deepEqual([database.cacheResponse, own.cacheResponse], [false, false]);
  const question = ask().equalTo('name', 'A').like('title', '%');
  await database.query(question);
  await assert.rejects(database.cacheStore.get(question.hash), /not found in store/);
  databases.cacheResponse = true;
  await database.query(question);
  assert.equal((await database.cacheStore.get(question.hash)).result[0].name, 'A');
});

group.check('a query without an order key is refused', async () => {
  const { app } = await library();
  const question = ask();
  question._sort = [[{ $type: 'keypath', $val: 'name' }]];
  await refused(ErrorCodes.InvalidArgument, app.publicDB.query(question));
});

module.exports = group;
