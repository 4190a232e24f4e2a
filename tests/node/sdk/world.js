// The server's address, and applications that use it.
'use strict';

const { randomUUID } = require('node:crypto');
const skygear = require('skygear');

const { SKYGEAR_ENDPOINT, RESTARTING_ENDPOINT, API_KEY, MASTER_KEY } = process.env;

/** Creates a separate application: the SDK's container, without a session. */
function application(apiKey = API_KEY, endPoint = SKYGEAR_ENDPOINT) {
  const app = new skygear.constructor();
  // Sockets are opened only on request, because this process has many applications.
  app.pubsub.autoPubsub = false;
  app.configApiKey(apiKey);
  app.configEndPoint(endPoint);
  return app;
}

/** An application that holds the master key. */
function administrator() {
  return application(MASTER_KEY);
}

/** Returns a unique name. */
function unique(name) {
  return `${name}-${randomUUID().slice(0, 8)}`;
}

/** An application whose user has just signed up. */
async function person(name, endPoint = SKYGEAR_ENDPOINT) {
  const app = application(API_KEY, endPoint);
  await app.auth.signupWithUsername(unique(name), `${name} knows`);
  return app;
}

function record(type, fields) {
  const Type = skygear.Record.extend(type);
  return new Type(fields);
}

function query(type) {
  return new skygear.Query(skygear.Record.extend(type));
}

/** Returns the sorted values of a field. */
function sorted(records, field) {
  return Array.from(records, (each) => each[field]).sort();
}

module.exports = {
  API_KEY,
  MASTER_KEY,
  RESTARTING_ENDPOINT,
  SKYGEAR_ENDPOINT,
  administrator,
  application,
  person,
  query,
  record,
  skygear,
  sorted,
  unique,
};
