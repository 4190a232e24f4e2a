// Friends and followers.
'use strict';

const assert = require('node:assert/strict');
const { Group, once, refused } = require('./harness');
const { application, person, skygear } = require('./world');

const group = new Group('relations');
const { ErrorCodes } = skygear;

const people = once(async () => {
  const [me, ben, cyd] = await Promise.all(['me', 'ben', 'cyd'].map((name) => person(name)));
  return { me, ben, cyd };
});

const user = (app) => app.auth.currentUser;
const ids = (users) => Array.from(users, (each) => each._id).sort();

group.check('following gives the users followed', async () => {
  const { me, ben, cyd } = await people();
  const answer = await me.relation.add(new me.Following([user(ben), user(cyd)]));
  assert.equal(answer.partialError, false);
  assert.deepEqual(ids(answer.success), ids([user(ben), user(cyd)]));
  assert.equal(answer.success[0].recordType, 'user');
  assert.ok(answer.success.some((each) => each.username === user(ben).username));
});

group.check('following twice is no error', async () => {
  const { me, ben } = await people();
  const answer = await me.relation.add(new me.Following([user(ben)]));
  assert.deepEqual([ids(answer.success), answer.fails], [[user(ben)._id], []]);
});

group.check('an unknown user is a partial error', async () => {
  const { me, ben } = await people();
  const answer = await me.relation.add(new me.Following([{ _id: 'nobody' }, user(ben)]));
  assert.equal(answer.partialError, true);
  assert.deepEqual(answer.fails.map((each) => each.id), ['nobody']);
  assert.deepEqual(ids(answer.success), [user(ben)._id]);
});

group.check('who follows whom', async () => {
  const { me, ben, cyd } = await people();
  const following = await me.relation.queryFollowing();
  assert.deepEqual(ids(following), ids([user(ben), user(cyd)]));
  assert.equal(following.overallCount, 2);
  const followers = await ben.relation.queryFollower();
  assert.deepEqual(ids(followers), [user(me)._id]);
  assert.equal(followers[0].username, user(me).username);
  assert.equal((await me.relation.queryFollower()).length, 0);
});

group.check('a page of those followed, and the count of all', async () => {
  const { me } = await people();
  const question = new me.relation.Query(me.Following);
  question.limit = 1;
  const page = await me.relation.query(question);
  assert.equal(page.length, 1);
  assert.equal(page.overallCount, 2);
});

group.check('friends are who say so both', async () => {
  const { me, ben } = await people();
  await me.relation.add(new me.Friend([user(ben)]));
  assert.equal((await me.relation.queryFriend()).length, 0);
  await ben.relation.add(new ben.Friend([user(me)]));
  const friends = await me.relation.queryFriend();
  assert.deepEqual(ids(friends), [user(ben)._id]);
  assert.equal(friends.overallCount, 1);
});

group.check('a friend is removed', async () => {
  const { me, ben } = await people();
  const answer = await me.relation.remove(new me.Friend([user(ben)]));
  assert.deepEqual(answer.success, [user(ben)._id]);
  assert.equal(answer.partialError, false);
  assert.equal((await ben.relation.queryFriend()).length, 0);
});

group.check('removing what is not there is a partial error', async () => {
  const { me, ben, cyd } = await people();
  const answer = await me.relation.remove(new me.Friend([user(cyd)]));
  assert.equal(answer.partialError, true);
  assert.deepEqual(answer.fails.map((each) => each.id), [user(cyd)._id]);
  const rest = await me.relation.remove(new me.Following([user(ben)]));
  assert.deepEqual(rest.success, [user(ben)._id]);
});

group.check('relations need a user', async () => {
  const app = application();
  const add = app.relation.add(new app.Following([{ _id: 'x' }]));
  await refused(ErrorCodes.NotAuthenticated, add);
  await refused(ErrorCodes.NotAuthenticated, app.relation.queryFollowing());
});

module.exports = group;
