// Follows a query at a real server until a record has arrived, and prints the result.
//
//   node follow.js URL KEY TOKEN PARAMETERS LAST
import WebSocket from 'ws';

import { LiveClient } from '../src/index.js';

const [, , url, apiKey, accessToken, parameters, last] = process.argv;
const client = new LiveClient({ url, apiKey, accessToken, WebSocket, onSessionOver: fail });
// What the changes say, put together, is the snapshot.
const known = new Map();
const query = client.query(JSON.parse(parameters), { onChanges: take, onError: fail });
query.subscribe(() => {
  const { records, isStale } = query.snapshot();
  if (isStale || !records.some(({ _id: id }) => id === last)) return;
  if (JSON.stringify(sorted(records)) !== JSON.stringify(sorted(known.values()))) fail('they differ');
  console.log(JSON.stringify(sorted(records)));
  client.close();
});

function take({ entered, changed, left }) {
  for (const record of entered) {
    if (known.has(record._id)) fail(`${record._id} was there`);
    known.set(record._id, record);
  }
  for (const record of changed) {
    if (!known.has(record._id)) fail(`${record._id} was not there`);
    known.set(record._id, record);
  }
  for (const record of left) {
    if (!known.delete(record._id)) fail(`${record._id} was not there`);
  }
}

function sorted(records) {
  return [...records].sort((one, other) => (one._id < other._id ? -1 : 1));
}

function fail(why) {
  console.error(why);
  process.exit(1);
}
