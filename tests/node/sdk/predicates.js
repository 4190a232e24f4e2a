// Every condition that a query can have.
'use strict';

const assert = require('node:assert/strict');
const { Group, refused } = require('./harness');
const { person, query, record, skygear, sorted, unique } = require('./world');
const { HERE, ask, library, namesSorted } = require('./library');

const group = new Group('predicates');
const { ErrorCodes, Query, Reference } = skygear;
const year = (number) => new Date(`${number}-01-01T00:00:00.000Z`);

// Name, the query, and the books that it finds.
const CASES = [
  ['like', () => ask().like('title', 'Tale%'), 'A'],
  ['like with one letter open', () => ask().like('title', '_edar'), 'C'],
  ['like with an escaped sign', () => ask().like('title', '%100\\%'), 'D'],
  ['notLike', () => ask().notLike('title', 'Tale%'), 'BCD'],
  ['caseInsensitiveLike', () => ask().caseInsensitiveLike('title', 'tale%'), 'AB'],
  ['caseInsensitiveNotLike', () => ask().caseInsensitiveNotLike('title', 'tale%'), 'CD'],
  ['equalTo a string', () => ask().equalTo('title', 'Cedar'), 'C'],
  ['equalTo a number', () => ask().equalTo('pages', 200), 'B'],
  ['equalTo a boolean', () => ask().equalTo('inStock', true), 'AC'],
  ['equalTo a date', () => ask().equalTo('published', year(2002)), 'B'],
  ['equalTo null', () => ask().equalTo('pages', null), 'D'],
  ['notEqualTo leaves out what has no value', () => ask().notEqualTo('genre', 'novel'), 'A'],
  ['notEqualTo null', () => ask().notEqualTo('pages', null), 'ABC'],
  ['greaterThan', () => ask().greaterThan('pages', 100), 'BC'],
  ['greaterThanOrEqualTo', () => ask().greaterThanOrEqualTo('pages', 200), 'BC'],
  ['lessThan', () => ask().lessThan('pages', 200), 'A'],
  ['lessThanOrEqualTo', () => ask().lessThanOrEqualTo('pages', 200), 'AB'],
  ['greaterThan a date', () => ask().greaterThan('published', year(2001)), 'BC'],
  ['lessThanOrEqualTo a date', () => ask().lessThanOrEqualTo('published', year(2001)), 'A'],
  ['distanceLessThan, near', () => ask().distanceLessThan('spot', HERE, 100), 'A'],
  ['distanceLessThan, further', () => ask().distanceLessThan('spot', HERE, 2000), 'AB'],
  ['distanceGreaterThan', () => ask().distanceGreaterThan('spot', HERE, 2000), 'C'],
  ['contains', () => ask().contains('genre', ['fable', 'poem']), 'A'],
  ['contains numbers', () => ask().contains('pages', [100, 300, 500]), 'AC'],
  ['contains nothing', () => ask().contains('genre', []), ''],
  ['notContains', () => ask().notContains('genre', ['novel']), 'A'],
  ['notContains nothing', () => ask().notContains('genre', []), ''],
  ['containsValue', () => ask().containsValue('tags', 'war'), 'AC'],
  ['notContainsValue', () => ask().notContainsValue('tags', 'war'), 'B'],
  ['several conditions', () => ask().equalTo('genre', 'novel').lessThan('pages', 300), 'B'],
  [
    'or',
    () => Query.or(ask().equalTo('pages', 100), ask().equalTo('title', 'Cedar')),
    'AC',
  ],
  ['or of one', () => Query.or(ask().equalTo('pages', 100)), 'A'],
  [
    'or beside a condition',
    () => Query.or(ask().equalTo('pages', 100), ask().equalTo('pages', 200)).equalTo('genre', 'novel'),
    'B',
  ],
  ['and', () => Query.and(ask().greaterThan('pages', 100), ask().lessThan('pages', 300)), 'B'],
  ['not', () => Query.not(query('library_book').greaterThan('pages', 100)), 'A'],
  ['not of two', () => Query.not(ask().greaterThan('pages', 100)), 'A'],
  ['not twice', () => Query.not(Query.not(ask().greaterThan('pages', 100))), 'BC'],
  [
    'nested',
    () => Query.or(
      Query.and(ask().equalTo('genre', 'novel'), ask().equalTo('inStock', true)),
      Query.and(ask().like('title', 'Tale%'), Query.not(ask().equalTo('inStock', false))),
    ),
    'AC',
  ],
];

for (const [name, question, expected] of CASES) {
  group.check(name, async () => {
    await library();
    assert.equal(await namesSorted(question()), expected);
  });
}

group.check('a clone asks the same', async () => {
  await library();
  const question = Query.or(ask().equalTo('pages', 100), ask().equalTo('pages', 300));
  assert.equal(await namesSorted(Query.clone(question)), await namesSorted(question));
  assert.equal(Query.clone(question).hash, question.hash);
});

group.check('equalTo and contains a reference', async () => {
  const { authors } = await library();
  const ash = new Reference(authors.ash);
  const birch = new Reference(authors.birch);
  assert.equal(await namesSorted(ask().equalTo('author', ash)), 'AC');
  assert.equal(await namesSorted(ask().notEqualTo('author', ash)), 'B');
  assert.equal(await namesSorted(ask().contains('author', [ash, birch])), 'ABC');
});

group.check('a field of the record referred to', async () => {
  await library();
  assert.equal(await namesSorted(ask().equalTo('author.name', 'birch')), 'B');
  assert.equal(await namesSorted(ask().like('author.name', 'a%')), 'AC');
});

group.check('id, owner, and times', async () => {
  const { app, books } = await library();
  const me = app.auth.currentUser._id;
  assert.equal(await namesSorted(ask().equalTo('_id', books.B._id)), 'B');
  assert.equal(await namesSorted(ask().contains('_id', [books.A._id, books.D._id])), 'AD');
  assert.equal(await namesSorted(ask().equalTo('_owner', me)), 'ABCD');
  assert.equal(await namesSorted(ask().equalTo('_owner_id', 'someone')), '');
  assert.equal(await namesSorted(ask().equalTo('_created_by', me)), 'ABCD');
  const { createdAt } = books.B;
  assert.equal(await namesSorted(ask().greaterThan('_created_at', year(2099))), '');
  assert.ok((await namesSorted(ask().greaterThanOrEqualTo('_created_at', createdAt))).endsWith('CD'));
});

group.check('an unknown field is refused and named', async () => {
  await library();
  const error = await refused(ErrorCodes.RecordQueryInvalid, namesSorted(ask().equalTo('no', 1)));
  assert.match(error.message, /"no"/);
});

group.check('conditions that the SDK refuses itself', async () => {
  assert.throws(() => ask().contains('genre', 'novel'), /array/);
  assert.throws(() => ask().containsValue('tags', 1), /string/);
  assert.throws(() => query('_reserved'), /RecordType/);
});

group.check('a type that nobody has saved is empty', async () => {
  const { app } = await library();
  assert.equal((await app.publicDB.query(query(unique('nothing')))).length, 0);
});

group.check('having a relation, in every direction, and not having it', async () => {
  const [me, friend, star, fan, stranger] = await Promise.all(
    ['me', 'friend', 'star', 'fan', 'stranger'].map((name) => person(name)),
  );
  const user = (app) => app.auth.currentUser;
  const { Friend, Following } = me.relation;
  await me.relation.add(new Friend([user(friend)]));
  await friend.relation.add(new Friend([user(me)]));
  await me.relation.add(new Following([user(star)]));
  await fan.relation.add(new Following([user(me)]));
  const mark = unique('post');
  const posts = { friend, star, fan, stranger };
  for (const [by, app] of Object.entries(posts)) {
    await app.publicDB.save(record('related_post', { mark, by }));
  }
  const by = async (change) => {
    const question = query('related_post').equalTo('mark', mark);
    return sorted(await me.publicDB.query(change(question)), 'by');
  };
  assert.deepEqual(await by((q) => q.havingRelation('_owner', me.Friend)), ['friend']);
  assert.deepEqual(await by((q) => q.havingRelation('_owner', me.Following)), ['star']);
  assert.deepEqual(await by((q) => q.havingRelation('_owner', me.Follower)), ['fan']);
  assert.deepEqual(await by((q) => q.notHavingRelation('_owner', me.Friend)), [
    'fan',
    'star',
    'stranger',
  ]);
});

module.exports = group;
