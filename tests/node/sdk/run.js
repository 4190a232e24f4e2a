// Drives the unmodified published SDK (npm `skygear` 1.7.2) through every public function:
//
//   SKYGEAR_ENDPOINT=… RESTARTING_ENDPOINT=… API_KEY=… MASTER_KEY=… CUSTOM_TOKEN_SECRET=… \
//     node run.js [GROUP …]
//
// Prints the result of each check (`harness.js`), and finally `end`. When it prints `restart`, kill the
// server at RESTARTING_ENDPOINT, start it again at the same address, and answer with any line.
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
  // This group mostly waits for the server.
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
