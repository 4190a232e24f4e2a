// Which of the SDK's public functions were called, as counted by the engine.
'use strict';

const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const inspector = require('node:inspector');
const { fileURLToPath } = require('node:url');
const { Group } = require('./harness');

// What an application in Node can reach; the rest is for plugins and other platforms.
const OWN_FILES = new RegExp([
  'skygear-core/dist/(acl|asset|auth|cache|container|database|error|geolocation|pubsub|push|query|',
  'query_result|record|reference|relation|role|type)\\.js$',
  '|skygear-(sso|forgot-password)/dist/(index|custom_token|oauth)\\.js$',
].join(''));

// Functions that nothing calls, and why.
const UNCALLED = [
  // Only in a browser: the page's checks (tests/sdk/browser) call it.
  'skygear-core/asset.js base64StringtoBlob',
  // These functions forget to return what they find.
  'skygear-core/pubsub.js hasHandlers',
  'skygear-core/record.js hasPublicReadAccess',
  'skygear-core/record.js hasPublicWriteAccess',
  'skygear-core/record.js hasReadAccessForRole',
  'skygear-core/record.js hasReadAccessForUser',
  'skygear-core/record.js hasWriteAccessForRole',
  'skygear-core/record.js hasWriteAccessForUser',
  // These need windows, and pages that a plugin serves.
  'skygear-sso/oauth.js getLinkRedirectResult',
  'skygear-sso/oauth.js getLoginRedirectResult',
  'skygear-sso/oauth.js iframeHandler',
  'skygear-sso/oauth.js linkOAuthProviderWithPopup',
  'skygear-sso/oauth.js linkOAuthProviderWithRedirect',
  'skygear-sso/oauth.js loginOAuthProviderWithPopup',
  'skygear-sso/oauth.js loginOAuthProviderWithRedirect',
  'skygear-sso/oauth.js oauthHandler',
];

const session = new inspector.Session();
session.connect();
const post = (method, parameters) => new Promise((resolve, reject) => {
  session.post(method, parameters, (error, answer) => (error ? reject(error) : resolve(answer)));
});

/** Starts counting; must run before the SDK is loaded. */
async function start() {
  await post('Profiler.enable');
  await post('Profiler.startPreciseCoverage', { callCount: true, detailed: false });
}

/** Returns a function's name, or that of the property it belongs to; null for inner functions. */
function publicName(source, { functionName, ranges }) {
  if (!/^[a-z]\w*$/.test(functionName)) return null;
  if (functionName !== 'get' && functionName !== 'set') return functionName;
  const keys = [...source.slice(0, ranges[0].startOffset).matchAll(/key: '(\w+)'/g)];
  const key = keys.length > 0 ? keys[keys.length - 1][1] : '';
  return /^[a-z]/i.test(key) ? `${functionName} ${key}` : null;
}

/** Returns the functions that were not called, each with its file. */
async function uncalled() {
  const { result } = await post('Profiler.takePreciseCoverage');
  const names = [];
  for (const { url, functions } of result.filter((script) => OWN_FILES.test(script.url))) {
    const source = readFileSync(fileURLToPath(url), 'utf8');
    const file = url.replace(/.*node_modules\//, '').replace('/dist', '');
    for (const each of functions.filter(({ ranges }) => ranges[0].count === 0)) {
      const name = publicName(source, each);
      if (name !== null) names.push(`${file} ${name}`);
    }
  }
  return names.sort();
}

const group = new Group('coverage');

// Last, when all others have finished.
group.check('every public function was called', async () => {
  assert.deepEqual(await uncalled(), UNCALLED);
});

module.exports = { group, start };
