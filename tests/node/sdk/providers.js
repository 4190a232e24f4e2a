// Login through others: auth providers, custom tokens, OAuth; and what plugins do for passwords.
'use strict';

const assert = require('node:assert/strict');
const { createHmac } = require('node:crypto');
const { Group, refused } = require('./harness');
const { application, person, skygear, unique } = require('./world');

const group = new Group('providers');
const { ErrorCodes } = skygear;
const { CUSTOM_TOKEN_SECRET } = process.env;

const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** Signs what another server says about its user. */
function customToken(claims, secret = CUSTOM_TOKEN_SECRET) {
  const now = Math.floor(Date.now() / 1000);
  const body = { iat: now - 5, exp: now + 600, ...claims };
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(body)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

group.check('the first login by a provider makes a user, the next finds it', async () => {
  const app = application();
  const principal = unique('principal');
  const user = await app.auth.loginWithProvider('acme', { principal });
  assert.equal(user.recordType, 'user');
  assert.equal((await app.auth.whoami())._id, user._id);
  const again = await application().auth.loginWithProvider('acme', { principal });
  assert.equal(again._id, user._id);
  const other = await application().auth.loginWithProvider('acme', { principal: unique('p') });
  assert.notEqual(other._id, user._id);
});

group.check('who a provider does not know is refused', async () => {
  const login = application().auth.loginWithProvider('acme', { principal: 'nobody' });
  await refused(ErrorCodes.InvalidCredentials, login);
});

group.check('an unknown provider is refused by name', async () => {
  const login = application().auth.loginWithProvider('none', { principal: 'x' });
  const error = await refused(ErrorCodes.InvalidArgument, login);
  assert.deepEqual(error.info.arguments, ['provider']);
});

group.check('login by a custom token, with a profile', async () => {
  const sub = unique('external');
  const app = application();
  const token = customToken({ sub, skyprofile: { nickname: 'Zed' } });
  const user = await app.auth.loginWithCustomToken(token);
  assert.equal(user.nickname, 'Zed');
  assert.equal((await app.auth.whoami())._id, user._id);
  const next = customToken({ sub, skyprofile: { nickname: 'Zoe' } });
  const again = await application().auth.loginWithCustomToken(next);
  assert.equal(again._id, user._id);
  assert.equal(again.nickname, 'Zoe');
});

group.check('a custom token signed by someone else is refused', async () => {
  const app = application();
  const forged = customToken({ sub: unique('external') }, 'not the secret');
  await refused(ErrorCodes.BadRequest, app.auth.loginWithCustomToken(forged));
  assert.equal(app.auth.currentUser, null);
});

group.check('a custom token that is over is refused', async () => {
  const old = customToken({ sub: unique('external'), iat: 1000, exp: 2000 });
  await refused(ErrorCodes.BadRequest, application().auth.loginWithCustomToken(old));
});

group.check('OAuth login by an access token takes the session that the plugin gives', async () => {
  const owner = await person('xia');
  const app = application();
  const user = await app.auth.loginOAuthProviderWithAccessToken('acme', owner.auth.accessToken);
  assert.equal(user._id, 'from-acme');
  assert.equal(app.auth.accessToken, owner.auth.accessToken);
  assert.equal((await app.auth.whoami())._id, owner.auth.currentUser._id);
});

group.check('OAuth link, unlink, and profiles reach the plugin', async () => {
  const app = await person('yul');
  const me = app.auth.currentUser._id;
  const link = await app.auth.linkOAuthProviderWithAccessToken('acme', 'oauth-token');
  assert.deepEqual(link, {
    name: 'sso/acme/link',
    args: { access_token: 'oauth-token' },
    user_id: me,
  });
  const unlink = await app.auth.unlinkOAuthProvider('acme');
  assert.deepEqual(unlink, { name: 'sso/acme/unlink', args: null, user_id: me });
  const profiles = await app.auth.getOAuthProviderProfiles();
  assert.deepEqual(profiles, { name: 'sso/provider_profiles', args: null, user_id: me });
});

group.check('a forgotten password and its reset reach the plugin', async () => {
  const app = application();
  const forgot = await app.auth.forgotPassword('a@example.com');
  assert.equal(forgot.name, 'user:forgot-password');
  assert.deepEqual(forgot.args, { email: 'a@example.com' });
  const reset = await app.auth.resetPassword('u1', 'code', 1500000000, 'new');
  assert.equal(reset.name, 'user:reset-password');
  assert.deepEqual(reset.args, {
    user_id: 'u1',
    code: 'code',
    expire_at: 1500000000,
    new_password: 'new',
  });
});

group.check('verification reaches the plugin and reads the user again', async () => {
  const app = await person('zac');
  const request = await app.auth.requestVerification('email');
  assert.equal(request.name, 'user:verify_request');
  assert.deepEqual(request.args, { record_key: 'email' });
  const user = await app.auth.verifyUserWithCode('123456');
  assert.equal(user._id, app.auth.currentUser._id);
});

module.exports = group;
