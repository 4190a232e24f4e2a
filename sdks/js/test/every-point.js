// A plugin with every extension point, for the tests against the real server.

import {
  ErrorCodes,
  Plugin,
  Query,
  Record,
  SkygearResponse,
  SkytrailError
} from 'skytrail-plugin';

const plugin = new Plugin();
/** What this process has seen; `js:seen` reports it. */
const seen = { events: [], timer: 0, saved: [], deleted: [], runs: {} };

// -- lambdas

plugin.op('js:echo', ({ args }, { context }) => ({ args, user: context.user_id ?? null }));

plugin.op('js:seen', () => ({ ...seen, pid: process.pid }), { keyRequired: true });

plugin.op('js:refuse', ({ args }) => {
  if (args.plainly) throw new Error('a plain error');
  throw new SkytrailError('not so', ErrorCodes.InvalidArgument, { arguments: ['x'] });
});

// The day arrives as a Date and is returned as one, an hour later.
plugin.op('js:later', ({ args: [day] }) => new Date(day.getTime() + 3_600_000));

plugin.op(
  'js:wait',
  (_, { signal }) =>
    new Promise((_, reject) => {
      signal.addEventListener('abort', () => {
        seen.aborted = signal.reason.reason;
        reject(signal.reason);
      });
    }),
  { timeoutMs: 300 }
);

// A common mistake: the second call has no handler yet when both fail.
plugin.op('js:pair', async (_, { api }) => {
  const [first, second] = [api.lambda('js:wait'), api.lambda('js:wait')];
  return [await first, await second];
});

plugin.op('js:oddly', () => {
  throw Object.create(null);
});

plugin.op('js:large', () => 'x'.repeat(9_000_000));

// Counts its runs by key, slowly enough for something to happen meanwhile.
plugin.op('js:once', async ({ args: [key] }, { api }) => {
  seen.runs[key] = (seen.runs[key] ?? 0) + 1;
  await new Promise((resolve) => setTimeout(resolve, 20));
  await api.save(new Record(`run/${key}`, { pid: process.pid }));
  return key;
});

plugin.op(
  'js:mine',
  async (_, { context, api }) => {
    const note = await api.asUser(context.user_id).save(new Record('note', { title: ' mine ' }));
    const found = await api.query(new Query('note').equalTo('title', 'mine').count());
    return { title: note.title, owner: note.ownerID, count: found.overallCount };
  },
  { userRequired: true }
);

// -- handlers

plugin.handler(
  'js/bytes',
  ({ body }) => Buffer.concat([Buffer.from([0, 255, 128]), body]),
  { method: 'POST' }
);

plugin.handler('js/tree/', ({ path, method, query }) => {
  const headers = { 'Set-Cookie': ['a=1', 'b=2'] };
  return new SkygearResponse({ statusCode: 201, headers, body: { path, method, query } });
});

// -- hooks

plugin.beforeSave('note', async (note, original, { api }) => {
  if (!note.title) {
    throw new SkytrailError('title is required', ErrorCodes.InvalidArgument, {
      arguments: ['title']
    });
  }
  note.title = note.title.trim();
  note.revision = (original?.revision ?? 0) + 1;
  // A save with its own hooks, which run in this worker while this hook waits.
  if (note.log) await api.save(new Record('entry', { text: note.title }));
});

plugin.beforeSave('entry', (entry) => {
  entry.text = `saved: ${entry.text}`;
});

plugin.beforeSave('run', () => {});

plugin.beforeSave('page', (page, original, { context }) => {
  if (page.ownerID !== context.user_id) throw new SkytrailError('not yours', ErrorCodes.PermissionDenied);
});

plugin.afterSave('note', (note, original, { delivery }) => {
  seen.saved.push({ title: note.title, first: original === null, delivery });
});

plugin.beforeDelete('note', (note) => {
  if (note.locked) throw new SkytrailError('locked', ErrorCodes.PermissionDenied);
});

plugin.afterDelete('note', async (note, _, { api }) => {
  seen.deleted.push(note._id);
  await api.publish('deleted', { id: note._id });
});

// -- timers, providers, events

plugin.every('@every 1s', function tick() {
  seen.timer += 1;
});

plugin.provides('auth', 'js.pin', {
  login({ auth_data: { name, pin } }) {
    if (pin !== 1234) throw new SkytrailError('wrong pin', ErrorCodes.InvalidCredentials);
    return { principal_id: name, auth_data: { name } };
  }
});

for (const name of ['before-plugins-ready', 'after-plugins-ready', 'server-ready']) {
  plugin.event(name, ({ config }) => void seen.events.push(`${name} of ${config.app.name}`));
}

plugin.event('before-plugins-ready', async (_, { api }) => {
  await api.save(new Record('entry/first', { text: 'the plugin was here' }));
});

await plugin.run();
