// Sign-up, login, logout, and who is signed in.
'use strict';

const assert = require('node:assert/strict');
const { Group, once, refused } = require('./harness');
const { application, person, skygear, unique } = require('./world');

const group = new Group('accounts');
const { ErrorCodes } = skygear;

const ada = once(async () => {
  const name = unique('Ada');
  const app = application();
  const user = await app.auth.signupWithUsername(name, 'engine');
  return { app, name, user };
});

group.check('sign-up by username', async () => {
  const { app, name, user } = await ada();
  assert.equal(user.recordType, 'user');
  assert.equal(user.username, name);
  assert.equal(user.ownerID, user._id);
  assert.ok(user.createdAt instanceof Date && !Number.isNaN(user.createdAt.getTime()));
  assert.equal(app.auth.currentUser, user);
  assert.ok(app.auth.accessToken.length > 10);
});

group.check('sign-up by email', async () => {
  const app = application();
  const email = `${unique('ben')}@example.com`;
  const user = await app.auth.signupWithEmail(email, 'pw');
  assert.equal(user.email, email);
  assert.equal(user.username, undefined);
});

group.check('sign-up by auth data', async () => {
  const app = application();
  const authData = { username: unique('cy'), email: `${unique('cy')}@example.com` };
  const user = await app.auth.signup(authData, 'pw');
  assert.equal(user.username, authData.username);
  assert.equal(user.email, authData.email);
});

group.check('sign-up with a profile of typed values', async () => {
  const app = application();
  const born = new Date('1815-12-10T12:30:45.678Z');
  const profile = { nickname: 'Countess', born, home: new skygear.Geolocation(51.5, -0.12) };
  const user = await app.auth.signupWithUsername(unique('dora'), 'pw', profile);
  assert.equal(user.nickname, 'Countess');
  assert.equal(user.born.getTime(), born.getTime());
  assert.equal(user.home.latitude, 51.5);
  const stored = await app.publicDB.getRecordByID(user.id);
  assert.equal(stored.nickname, 'Countess');
  assert.equal(stored.home.longitude, -0.12);
});

group.check('anonymous sign-up', async () => {
  const app = application();
  const user = await app.auth.signupAnonymously();
  assert.equal(user.username, undefined);
  assert.ok(app.auth.accessToken);
  assert.equal((await app.auth.whoami())._id, user._id);
});

group.check('a name in use is refused, whatever its case', async () => {
  const { name } = await ada();
  const again = application();
  await refused(ErrorCodes.Duplicated, again.auth.signupWithUsername(name.toUpperCase(), 'pw'));
  assert.equal(again.auth.currentUser, null);
  assert.equal(again.auth.accessToken, null);
});

group.check('sign-up without a password is refused and names it', async () => {
  const error = await refused(
    ErrorCodes.InvalidArgument,
    application().auth.signupWithUsername(unique('eve'), ''),
  );
  assert.deepEqual(error.info.arguments, ['password']);
});

group.check('sign-up by an unknown auth key is refused', async () => {
  const error = await refused(
    ErrorCodes.InvalidArgument,
    application().auth.signup({ phone: '1' }, 'pw'),
  );
  assert.deepEqual(error.info.arguments, ['auth_data']);
});

group.check('login by username', async () => {
  const { name, user } = await ada();
  const app = application();
  const back = await app.auth.loginWithUsername(name, 'engine');
  assert.equal(back._id, user._id);
  assert.equal(back.username, name);
  assert.equal(app.auth.currentUser._id, user._id);
});

group.check('login by username in another case', async () => {
  const { name, user } = await ada();
  const back = await application().auth.loginWithUsername(name.toLowerCase(), 'engine');
  assert.equal(back._id, user._id);
});

group.check('login by email', async () => {
  const email = `${unique('fay')}@example.com`;
  const user = await application().auth.signupWithEmail(email, 'pw');
  const back = await application().auth.loginWithEmail(email, 'pw');
  assert.equal(back._id, user._id);
  assert.equal(back.email, email);
});

group.check('login by auth data', async () => {
  const { name, user } = await ada();
  const back = await application().auth.login({ username: name }, 'engine');
  assert.equal(back._id, user._id);
});

group.check('the profile says when the user was here before', async () => {
  const name = unique('gil');
  await application().auth.signupWithUsername(name, 'pw');
  const first = await application().auth.loginWithUsername(name, 'pw');
  const second = await application().auth.loginWithUsername(name, 'pw');
  assert.ok(first.last_login_at instanceof Date);
  assert.ok(second.last_login_at >= first.last_login_at);
});

group.check('a wrong password is refused', async () => {
  const { name } = await ada();
  const app = application();
  await refused(ErrorCodes.InvalidCredentials, app.auth.loginWithUsername(name, 'no'));
  assert.equal(app.auth.currentUser, null);
});

group.check('an unknown user is refused', async () => {
  const login = application().auth.loginWithUsername(unique('nobody'), 'pw');
  await refused(ErrorCodes.ResourceNotFound, login);
});

group.check('who am I gives the user and a new token that works', async () => {
  const app = await person('hal');
  const before = app.auth.accessToken;
  const user = await app.auth.whoami();
  assert.equal(user._id, app.auth.currentUser._id);
  assert.ok(app.auth.accessToken);
  assert.notEqual(app.auth.accessToken, before);
  assert.equal((await app.auth.whoami())._id, user._id);
});

group.check('who am I without a session is refused', async () => {
  await refused(ErrorCodes.NotAuthenticated, application().auth.whoami());
});

group.check('logout ends the session of the application', async () => {
  const app = await person('ida');
  assert.equal(await app.auth.logout(), null);
  assert.equal(app.auth.currentUser, null);
  assert.equal(app.auth.accessToken, null);
  await refused(ErrorCodes.NotAuthenticated, app.auth.whoami());
});

group.check('listeners hear of the user until they cancel', async () => {
  const app = application();
  const heard = [];
  const handle = app.auth.onUserChanged((user) => heard.push(user && user._id));
  const name = unique('jo');
  const user = await app.auth.signupWithUsername(name, 'pw');
  await app.auth.logout();
  handle.cancel();
  await app.auth.loginWithUsername(name, 'pw');
  assert.deepEqual(heard, [user._id, null]);
});

group.check('a user saves the own profile', async () => {
  const app = await person('kim');
  const user = app.auth.currentUser;
  user.motto = 'Ad astra';
  await app.publicDB.save(user);
  assert.equal((await app.auth.whoami()).motto, 'Ad astra');
});

group.check('a token that is not accepted forgets the session', async () => {
  const app = await person('liz');
  app.auth._accessToken = `${app.auth.accessToken}x`;
  await refused(ErrorCodes.AccessTokenNotAccepted, app.auth.whoami());
  assert.equal(app.auth.accessToken, null);
  assert.equal(app.auth.currentUser, null);
});

module.exports = group;
