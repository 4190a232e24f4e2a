// Roles: who has them, and who assigns them.
'use strict';

const assert = require('node:assert/strict');
const { Group, once, refused } = require('./harness');
const { administrator, person, skygear, unique } = require('./world');

const group = new Group('roles');
const { ErrorCodes, Role } = skygear;

const ada = once(() => person('ada'));
const user = (app) => app.auth.currentUser;
const admin = administrator();

/** Returns the names of a user's roles. */
async function rolesOf(app) {
  const roles = await admin.auth.fetchUserRole([user(app)]);
  const own = roles[user(app)._id];
  assert.ok(own.every((role) => role instanceof Role));
  return own.map((role) => role.name).sort();
}

group.check('a new user has none', async () => {
  assert.deepEqual(await rolesOf(await person('new')), []);
});

group.check('roles are assigned and revoked', async () => {
  const [first, second] = [Role.define(unique('first')), Role.define(unique('second'))];
  const app = await ada();
  assert.equal(await admin.auth.assignUserRole([user(app)], [first, second]), 'OK');
  assert.deepEqual(await rolesOf(app), [first.name, second.name].sort());
  assert.equal(await admin.auth.revokeUserRole([user(app)._id], [first.name]), 'OK');
  assert.deepEqual(await rolesOf(app), [second.name]);
  await admin.auth.revokeUserRole([user(app)], [second]);
});

group.check('several users at once', async () => {
  const [one, two] = await Promise.all([person('one'), person('two')]);
  const role = Role.define(unique('both'));
  await admin.auth.assignUserRole([user(one), user(two)._id], [role]);
  const roles = await admin.auth.fetchUserRole([user(one), user(two)._id]);
  assert.deepEqual(Object.keys(roles).sort(), [user(one)._id, user(two)._id].sort());
  for (const list of Object.values(roles)) assert.ok(Role.contain(list, role));
});

group.check('a user sees the own roles, not those of others', async () => {
  const app = await ada();
  const other = await person('other');
  const role = Role.define(unique('own'));
  await admin.auth.assignUserRole([user(app)], [role]);
  const own = await app.auth.fetchUserRole([user(app)]);
  assert.deepEqual(own[user(app)._id].map((each) => each.name), [role.name]);
  await refused(ErrorCodes.PermissionDenied, app.auth.fetchUserRole([user(other)]));
  await admin.auth.revokeUserRole([user(app)], [role]);
});

group.check('default roles go to who signs up from now on', async () => {
  const [writer, reader] = [Role.define(unique('writer')), Role.define(unique('reader'))];
  assert.deepEqual(await admin.auth.setDefaultRole([writer, reader]), [writer.name, reader.name]);
  try {
    assert.deepEqual(await rolesOf(await person('fresh')), [reader.name, writer.name].sort());
    assert.deepEqual(await rolesOf(await ada()), []);
  } finally {
    await admin.auth.setDefaultRole([]);
  }
  assert.deepEqual(await rolesOf(await person('later')), []);
});

group.check('an admin role gives the right to give roles', async () => {
  const app = await ada();
  const boss = Role.define(unique('boss'));
  const gift = Role.define(unique('gift'));
  const other = await person('other');
  const give = () => app.auth.assignUserRole([user(other)], [gift]);
  await refused(ErrorCodes.PermissionDenied, give());
  assert.deepEqual(await admin.auth.setAdminRole([boss]), [boss.name]);
  try {
    await admin.auth.assignUserRole([user(app)], [boss]);
    assert.equal(await give(), 'OK');
    assert.deepEqual(await rolesOf(other), [gift.name]);
    assert.equal(await app.auth.revokeUserRole([user(other)], [gift]), 'OK');
    await admin.auth.revokeUserRole([user(app)], [boss]);
    await refused(ErrorCodes.PermissionDenied, give());
  } finally {
    await admin.auth.setAdminRole([Role.define('Admin')]);
  }
});

group.check('sets of roles', async () => {
  const [a, b] = [Role.define('a'), Role.define('b')];
  assert.equal(Role.define('a'), a);
  assert.deepEqual(Role.union([a], b), [a, b]);
  assert.deepEqual(Role.union([a, b], b), [a, b]);
  assert.deepEqual(Role.subtract([a, b], a), [b]);
  assert.equal(Role.contain([a], b), false);
});

module.exports = group;
