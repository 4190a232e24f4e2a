// Follows queries at a real server, for a test that breaks connections and the server meanwhile.
//
//   node follow.js ADDRESS API-KEY TOKEN LAST-ID QUERIES
//
// QUERIES is an object of parameters by name, as JSON. Prints `current` whenever all results are up to
// date after they were not. Once the last id is in all of them, prints the results by name, each by
// id. Then it waits for the end of the session, prints the error's code, and exits.

import assert from 'node:assert/strict';

import WebSocket from 'ws';

import { LiveClient } from '../src/index.js';

const [, , url, apiKey, accessToken, lastId, asked] = process.argv;
const client = new LiveClient({
  url,
  apiKey,
  accessToken,
  WebSocket,
  onSessionOver: ({ code }) => {
    console.log(code);
    client.close();
  }
});
// Many breaks in a short time would make the pauses long.
client.subscribe((state) => {
  if (state === 'waiting') setTimeout(client.wake, 100);
});
const queries = Object.entries(JSON.parse(asked)).map(([name, parameters]) => [name, client.query(parameters)]);
let isCurrent = false;
let isDone = false;

function look() {
  const all = queries.map(([, query]) => query.snapshot());
  for (const { error } of all) assert.equal(error, null);
  const before = isCurrent;
  isCurrent = all.every(({ isStale }) => !isStale);
  if (isCurrent && !before) console.log('current');
  if (isDone || !isCurrent || !all.every(({ records }) => records.some(({ _id: id }) => id === lastId))) return;
  isDone = true;
  const byId = ({ records }) => Object.fromEntries(records.map((record) => [record._id, record]));
  console.log(JSON.stringify(Object.fromEntries(queries.map(([name, query]) => [name, byId(query.snapshot())]))));
}

for (const [, query] of queries) {
  /** What the changes make of nothing is what is shown. */
  const told = new Map();
  query.onChange(({ entered, changed, left }) => {
    for (const record of [...entered, ...changed]) told.set(record._id, record);
    for (const { _id: id } of left) told.delete(id);
  });
  query.subscribe(({ records }) => {
    assert.deepEqual(new Set(told.values()), new Set(records));
    look();
  });
}
