// Type-checked, never run: what plugins in TypeScript can write, and what they cannot.

import skygearCloud, {
  Asset,
  Drop,
  ErrorCodes,
  Plugin,
  Query,
  Record,
  Reference,
  Sequence,
  SkygearResponse,
  SkytrailError,
  type Delivery
} from 'skytrail-plugin';
import { PluginTester } from 'skytrail-plugin/testing';

const plugin = new Plugin('NOTES', { window: 4, generation: 1 });

plugin.op('note:hello', async ({ args }, { context, api, signal }) => {
  await api.withRightsOf(context.user_id ?? 'u1').fetch('note/1');
  const found = await api.asUser(context.user_id ?? 'u1').query(new Query('note').equalTo('a', 1).limit(1));
  const count: number | null = found.overallCount;
  const titles: string[] = found.map((note) => note.title);
  await api.lambda('other', [args], { signal, timeoutMs: 5 });
  return { count, titles };
}, { userRequired: true, idempotent: true });
plugin.handler('a', (request) => new SkygearResponse({ body: Buffer.from(request.body) }), { method: 'GET' });
plugin.handler('b', () => new Response('x'));
plugin.handler('c', ({ headers }) => fetch(`http://x/${headers.get('x-name') ?? ''}`, { headers }));
plugin.beforeSave('note', (note, original) => {
  if (original !== null) throw new SkytrailError('no', ErrorCodes.InvalidArgument);
  note.room = new Reference('room/1');
  note.setPublicReadOnly();
  return note;
});
plugin.afterSave('note', async (note, _, { delivery, progress }) => {
  const known: Delivery | null = delivery;
  progress();
  if (known?.attempt === 3) throw new Drop('enough');
}, { async: true, catchUp: 'latest' });
plugin.every('@hourly', () => {}, { name: 'tick' });
plugin.provides('auth', 'x', { login: async ({ auth_data }) => ({ principal_id: auth_data.name }) });
plugin.provides('auth', 'y', class { login() { return { principal_id: '1' }; } });
plugin.event('server-ready', () => skygearCloud.api.publish(['a', 'b'], 1));
plugin.op('reached', ({ args: [id] }, { api }): Promise<string[]> =>
  api.pushToDevices(id as string, { apns: { aps: {} } }, { topic: 'com.example' })
);
plugin.staticAsset('/demo', () => 'assets');

export async function tests() {
  const tester = new PluginTester(plugin);
  const saved: Record = await tester.beforeSave(new Record('note', { file: new Asset({ name: 'a' }) }));
  const [first] = await plugin.api.save([saved], { createOnly: true });
  await plugin.api.save(saved, { if: new Query('note').equalTo('done', false) });
  await plugin.api.save(saved, { if: ['eq', { $type: 'keypath', $val: 'done' }, false] });
  if (first instanceof Record) first.title = 1;
  // @ts-expect-error a hook returns a record
  plugin.beforeSave('note', () => 'text');
  // @ts-expect-error only after-hooks have deliveries
  plugin.beforeSave('note', () => {}, { catchUp: 'all' });
  // @ts-expect-error options have names
  plugin.op('x', () => 1, { userRequred: true });
  new Record('note', { map: new Map([['a', 1]]), set: new Set([new Date()]), form: new FormData() });
  new Record('note', { url: new URL('http://x'), list: [new Sequence(), { a: undefined }] });
  new Record('note').set('get', new Map([['a', new Reference('room/1')]]));
  // @ts-expect-error a promise is awaited first
  new Record('note', { title: Promise.resolve('hi') });
  // @ts-expect-error a promise is awaited first
  new Query('note').equalTo('title', fetch('http://x'));
  // @ts-expect-error JSON has no bigints
  new Record('note', { n: 1n });
  // @ts-expect-error nor symbols
  new Record('note', { s: Symbol('x') });
  // @ts-expect-error nor functions
  new Record('note', { f: () => 1 });
  // @ts-expect-error nor errors
  new Record('note', { e: new Error('x') });
  // @ts-expect-error a provider has a login
  plugin.provides('auth', 'z', {});
}
