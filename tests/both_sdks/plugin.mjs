// What a plugin says of deliveries and deployments, in JavaScript; `plugin.py` is the same in Python.
//
// A note's `mode` says what is to become of its delivery. `both:state` reports what was seen.

import { setTimeout as sleep } from 'node:timers/promises';

import { Drop, Plugin, RetryAfter } from '../../sdks/js/src/index.js';

const generation = Number(process.env.PLUGIN_GENERATION ?? 0);
const { FROM } = process.env;

const plugin = new Plugin('BOTH', FROM === undefined ? {} : { from: Number(FROM) });
const seen = [];

plugin.op('both:state', () => ({ generation, pid: process.pid, seen }));

plugin.op('both:slow', async ({ args: [seconds] }) => {
  await sleep(seconds * 1000);
  return generation;
});

if (generation < 2) plugin.op('both:old', () => 'old');
else plugin.op('both:new', () => 'new');

plugin.afterSave(
  'note',
  async function told({ n, mode = null }, original, { delivery, progress }) {
    const { position, attempt, catchingUp: catching_up } = delivery;
    seen.push({ n, mode, position, attempt, catching_up });
    if (mode === 'drop') throw new Drop('not for me');
    if (mode === 'retry' && attempt === 1) throw new RetryAfter(100);
    if (mode === 'long') {
      // Longer than its limit, but never silent for so long.
      for (let turn = 0; turn < 6; turn += 1) {
        await sleep(300);
        progress();
      }
    }
  },
  { async: true, timeoutMs: 1000 }
);

plugin.afterSave('sign', ({ n }) => void seen.push({ sign: 'latest', n }), {
  name: 'latest',
  async: true,
  catchUp: 'latest'
});

plugin.afterSave('sign', ({ n }) => void seen.push({ sign: 'none', n }), {
  name: 'none',
  async: true,
  catchUp: 'none'
});

await plugin.run();
