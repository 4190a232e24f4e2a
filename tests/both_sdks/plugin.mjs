// Reports what a plugin sees of deliveries and deployments; `plugin.py` is the same in Python.
//
// A note's `mode` says how its delivery ends. `both:state` reports what was seen.

import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

import { Drop, Plugin, RetryAfter } from '../../sdks/js/src/index.js';

const generation = Number(process.env.PLUGIN_GENERATION ?? 0);
const { FROM } = process.env;

const plugin = new Plugin('BOTH', FROM === undefined ? {} : { from: Number(FROM) });
const seen = [];

plugin.op('both:state', () => ({ generation, pid: process.pid, seen }));

// Works until there is a file.
plugin.op('both:slow', async ({ args: [path] }) => {
  while (!existsSync(path)) await sleep(10);
  return generation;
});

plugin.op('both:history', async ({ args: [id] }, { api }) => {
  const all = async (options) => {
    const versions = [];
    for await (const version of api.history(id, options)) versions.push(version);
    return versions;
  };
  const versions = await all({ page: 2 });
  const first = versions.at(-1);
  const old = await api.fetch(id, { asOf: first.position });
  // A `Date` has milliseconds, the log microseconds: a commit in the same millisecond counts.
  const time = new Date(first.time.getTime() + 1);
  const then = await api.query(id.split('/')[0], { asOf: time });
  const restored = await api.restore(id, first);
  const latest = await all({ after: versions[0].position });
  return {
    kinds: versions.map(({ kind }) => kind),
    changes: versions.map(({ changes: { n } }) => [n.before, n.after]),
    records: versions.map(({ record }) => record?.n ?? null),
    users: versions.map(({ actor }) => actor.user ?? null),
    old: old.n,
    then: then.map(({ n }) => n),
    restored: restored.n,
    latest: latest.map(({ actor }) => actor.plugin ?? null)
  };
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
      // Takes longer than its limit, but never stays silent that long.
      for (let turn = 0; turn < 8; turn += 1) {
        await sleep(500);
        progress();
      }
    }
  },
  { async: true, timeoutMs: 3500 }
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
