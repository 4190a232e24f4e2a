// Drives the published SDK (npm `skygear` 1.7.2, as it is) through every public function:
//
//   SKYGEAR_ENDPOINT=… RESTARTING_ENDPOINT=… API_KEY=… MASTER_KEY=… CUSTOM_TOKEN_SECRET=… \
//     node run.js [GROUP …]
//
// Says how each check went (`harness.js`), and last `end`. When it says `restart`, the server at
// RESTARTING_ENDPOINT is to be killed and started again at its address, and any line to be answered.
'use strict';

const coverage = require('./coverage');

const GROUPS = [
  'accounts',
  'passwords',
  'providers',
  'sessions',
  'saving',
  'values',
  'predicates',
  'reading',
  'access',
  'roles',
  'relations',
  'files',
  'devices',
  'pubsub',
  'lambdas',
  'errors',
];

async function main() {
  await coverage.start();
  const wanted = process.argv.slice(2);
  const isWanted = (name) => wanted.length === 0 || wanted.includes(name);
  // This one waits for the server most of its time.
  const patient = isWanted('reconnecting') ? require('./reconnecting').run() : null;
  for (const name of GROUPS.filter(isWanted)) await require(`./${name}`).run();
  await patient;
  if (wanted.length === 0) await coverage.group.run();
  process.stdout.write('end\n', () => process.exit(0));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
