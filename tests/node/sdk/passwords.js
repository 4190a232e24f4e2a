// Passwords that change, and users who are locked out.
'use strict';

const assert = require('node:assert/strict');
const { Group, refused } = require('./harness');
const { administrator, application, person, record, skygear, unique } = require('./world');

const group = new Group('passwords');
const { ErrorCodes } = skygear;

async function account(name, password) {
  const app = application();
  const username = unique(name);
  const user = await app.auth.signupWithUsername(username, password);
  return { app, username, user };
}

group.check('a changed password is the only one', async () => {
  const { app, username, user } = await account('mo', 'old');
  const changed = await app.auth.changePassword('old', 'new');
  assert.equal(changed._id, user._id);
  await refused(
    ErrorCodes.InvalidCredentials,
    application().auth.loginWithUsername(username, 'old'),
  );
  const back = await application().auth.loginWithUsername(username, 'new');
  assert.equal(back._id, user._id);
});

group.check('the session goes on after a change of password', async () => {
  const { app, user } = await account('mia', 'old');
  const before = app.auth.accessToken;
  await app.auth.changePassword('old', 'new');
  assert.notEqual(app.auth.accessToken, before);
  assert.equal((await app.auth.whoami())._id, user._id);
});

group.check('a change of password needs the old one', async () => {
  const { app, username } = await account('ned', 'old');
  await refused(ErrorCodes.InvalidCredentials, app.auth.changePassword('guess', 'new'));
  await application().auth.loginWithUsername(username, 'old');
});

group.check('a change of password needs a new one', async () => {
  const { app } = await account('ned', 'old');
  const error = await refused(ErrorCodes.InvalidArgument, app.auth.changePassword('old', ''));
  assert.deepEqual(error.info.arguments, ['password']);
});

group.check('an administrator sets a password, by user and by id', async () => {
  const { username, user } = await account('oz', 'forgotten');
  const admin = administrator();
  assert.equal(await admin.auth.adminResetPassword(user, 'first'), user._id);
  await application().auth.loginWithUsername(username, 'first');
  assert.equal(await admin.auth.adminResetPassword(user._id, 'second'), user._id);
  await refused(
    ErrorCodes.InvalidCredentials,
    application().auth.loginWithUsername(username, 'first'),
  );
  await application().auth.loginWithUsername(username, 'second');
});

group.check('setting a password of others needs the master key', async () => {
  const { user } = await account('pam', 'pw');
  const other = await person('quinn');
  await refused(ErrorCodes.PermissionDenied, other.auth.adminResetPassword(user, 'mine'));
});

group.check('a disabled user cannot log in and is told why and until when', async () => {
  const { username, user } = await account('rex', 'pw');
  const admin = administrator();
  const expiry = new Date('2100-01-02T03:04:05.000Z');
  const disabled = await admin.auth.adminDisableUser(user, 'too loud', expiry);
  assert.equal(disabled, user._id);
  const login = application().auth.loginWithUsername(username, 'pw');
  const error = await refused(ErrorCodes.UserDisabled, login);
  assert.equal(error.info.message, 'too loud');
  assert.equal(new Date(error.info.expiry).getTime(), expiry.getTime());
});

group.check('a disabled user cannot go on', async () => {
  const { app, user } = await account('sam', 'pw');
  await administrator().auth.adminDisableUser(user._id);
  const save = app.publicDB.save(record('sdk_note', { text: 'still here' }));
  await refused(ErrorCodes.UserDisabled, save);
});

group.check('an enabled user is back', async () => {
  const { app, username, user } = await account('tom', 'pw');
  const admin = administrator();
  await admin.auth.adminDisableUser(user, 'a break');
  assert.equal(await admin.auth.adminEnableUser(user), user._id);
  assert.equal((await app.auth.whoami())._id, user._id);
  await application().auth.loginWithUsername(username, 'pw');
});

group.check('a time that is over disables nobody', async () => {
  const { username, user } = await account('uma', 'pw');
  const past = new Date('2001-01-01T00:00:00.000Z');
  await administrator().auth.adminDisableUser(user, 'long ago', past);
  await application().auth.loginWithUsername(username, 'pw');
});

group.check('disabling needs an administrator', async () => {
  const { user } = await account('val', 'pw');
  const other = await person('will');
  await refused(ErrorCodes.PermissionDenied, other.auth.adminDisableUser(user));
  await refused(ErrorCodes.PermissionDenied, other.auth.adminEnableUser(user));
});

module.exports = group;
