// A plugin in a program that keeps something open, for the tests of `run`.

import { setTimeout as sleep } from 'node:timers/promises';

import { Plugin } from '../src/index.js';

const plugin = new Plugin('PROGRAM', { drainMs: 100 });

const load = async (api) => (await api.lambda('slow')).length;
plugin.op('pair', async (_, { api, signal }) => {
  // Only the first has a handler when all fail.
  const [first, ...others] = [load(api), load(api), sleep(60_000, null, { signal })];
  return [await first, await Promise.all(others)];
});
plugin.op('hello', () => 'hi');
plugin.op('fault', () => void Promise.reject(new Error('a fault of the program')));

setInterval(() => {}, 60_000);
await plugin.run();
process.stdout.write('cleaning up\n');
