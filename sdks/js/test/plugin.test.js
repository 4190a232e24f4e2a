import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import {
  Drop,
  ErrorCodes,
  Plugin,
  Query,
  Record,
  Reference,
  RetryAfter,
  SkygearResponse,
  SkytrailError
} from '../src/index.js';
import { checkedLevel } from '../src/log.js';
import { PluginTester } from '../src/testing.js';

function tested(register) {
  const plugin = new Plugin('TEST');
  register(plugin);
  return new PluginTester(plugin);
}

test('init answers with the points', async () => {
  const tester = tested((plugin) => {
    plugin.op('a:b', () => 1, { userRequired: true, timeoutMs: 100, idempotent: true });
    plugin.handler('c/d', () => 1, { method: ['GET', 'delete'], keyRequired: true });
    plugin.beforeSave('note', function check() {});
    plugin.afterSave('note', () => {}, { async: true, catchUp: 'latest' });
    plugin.every(90, function tick() {});
    plugin.every('@hourly', () => {}, { name: 'other', timeZone: 'UTC', overlap: 'allow' });
    plugin.provides('auth', 'com.example', { login: () => ({ principal_id: '1' }) });
    plugin.event('server-ready', () => {});
  });
  assert.deepEqual(await tester.start(), {
    op: [
      { name: 'a:b', key_required: false, user_required: true, timeout_ms: 100, idempotent: true }
    ],
    handler: [
      { name: 'c/d', methods: ['GET', 'DELETE'], key_required: true, user_required: false }
    ],
    hook: [
      { name: 'note.beforeSave.check', type: 'note', trigger: 'beforeSave', async: false },
      { name: 'note.afterSave', type: 'note', trigger: 'afterSave', async: true, catch_up: 'latest' }
    ],
    timer: [
      { name: 'tick', spec: '@every 90s' },
      { name: 'other', spec: '@hourly', time_zone: 'UTC', overlap: 'allow' }
    ],
    provider: [{ type: 'auth', id: 'com.example', name: 'com.example' }],
    event: [{ name: 'server-ready' }]
  });
});

test('points that init adds are there after every start', async () => {
  const tester = tested((plugin) => {
    plugin.op('early', () => 1);
    plugin.event('init', () => {
      plugin.op('late', () => 1);
      plugin.event('server-ready', () => {});
      plugin.staticAsset('late', () => '.');
    });
  });
  const first = await tester.start();
  assert.deepEqual(first.op.map(({ name }) => name), ['early', 'late']);
  assert.equal(first.handler.length, 1);
  assert.deepEqual(await tester.start(), first);
  assert.deepEqual(await tester.event('init'), first);
});

test('mistakes are said when they are made', () => {
  const plugin = new Plugin('TEST');
  plugin.op('a', () => 1);
  plugin.afterSave('note', () => {});
  const wrong = [
    [() => plugin.op('a', () => 2), /already a lambda a/],
    [() => plugin.op('b'), /b needs a function/],
    [() => plugin.op('b', () => 1, { userRequred: true }), /unknown option userRequred/],
    [() => plugin.afterSave('note', () => {}), /already a hook note.afterSave/],
    [() => plugin.afterSave('note', () => {}, { name: 'b', catchUp: 'some' }), /one of all, latest/],
    [() => plugin.beforeSave('note', () => {}, { catchUp: 'all' }), /unknown option catchUp/],
    [() => plugin.event('init', () => {}, { timeoutMs: 1 }), /unknown option timeoutMs/],
    [() => plugin.every('@hourly', () => {}), /a timer needs a name: pass {name}; bundlers/],
    [() => plugin.every(0.5, () => {}, { name: 'b' }), /at least 1/],
    [() => plugin.provides('auth', 'x', {}), /no login/],
    [() => plugin.provides('sso', 'x', {}), /of kind auth/],
    [() => new Plugin().settings(), /no name/],
    [() => new Plugin('X', { window: -1 }).settings(), /^TypeError: window should be a whole number/],
    [() => new Plugin('X', { window: 0 }).settings(), /window should be .* at least 1, not 0/],
    [() => new Plugin('X', { maxMessage: 10 }).settings(), /maxMessage should be .* at least 1024/]
  ];
  for (const [act, message] of wrong) assert.throws(act, message);
});

/** Calls a function with other variables in the environment. */
function withEnvironment(variables, act) {
  const before = { ...process.env };
  Object.assign(process.env, variables);
  try {
    return act();
  } finally {
    for (const name of Object.keys(variables)) delete process.env[name];
    Object.assign(process.env, before);
  }
}

test('how large a message may be is given, or of the environment', () => {
  const limit = (settings) => new Plugin('P', settings).settings().maxMessage;
  assert.equal(limit(), 8 << 20);
  withEnvironment({ PLUGIN_MAX_MESSAGE: '33554432' }, () => {
    assert.deepEqual([limit(), limit({ maxMessage: 1 << 20 })], [32 << 20, 1 << 20]);
  });
});

test('an empty setting is none', () => {
  const names = ['SKYGEAR_ENDPOINT', 'MASTER_KEY', 'LOG_LEVEL'];
  for (const name of ['WINDOW', 'GENERATION', 'MAX_MESSAGE']) names.push(`PLUGIN_${name}`);
  const settings = () => {
    const { log, ...others } = new Plugin('P').settings();
    return others;
  };
  const unset = Object.fromEntries(names.map((name) => [name, '']));
  assert.deepEqual(withEnvironment(unset, settings), settings());
  const { window, maxMessage, endpoint } = withEnvironment(unset, settings);
  assert.deepEqual([window, maxMessage, endpoint], [16, 8 << 20, 'http://127.0.0.1:3000']);
  assert.throws(() => withEnvironment({ PLUGIN_NAME: '' }, () => new Plugin().settings()), /no name/);
});

test('a setting that means nothing is refused by its name', () => {
  for (const [name, value] of [
    ['PLUGIN_WINDOW', '0'],
    ['PLUGIN_WINDOW', 'many'],
    ['PLUGIN_GENERATION', '-1'],
    ['PLUGIN_MAX_MESSAGE', '1023'],
    ['LOG_LEVEL', 'loud'],
    ['LOG_LEVEL', 'loud,skytrail=debug'],
    ['LOG_LEVEL', 'info,loud']
  ]) {
    const act = () => withEnvironment({ [name]: value }, () => new Plugin('P').settings());
    assert.throws(act, new RegExp(`^TypeError: ${name} should be .*, not ${value}$`));
  }
  for (const level of ['DEBUG', 'warning', 'off', 'fatal']) {
    withEnvironment({ LOG_LEVEL: level }, () => new Plugin('P').settings());
  }
});

test("of the server's filters the level counts that is for everything", () => {
  for (const [text, level] of [
    ['warn,skytrail::http=debug', 'warn'],
    ['skytrail::http=debug, Error', 'error'],
    ['skytrail::http=debug', 'info'],
    ['skytrail::http,sqlx=off', 'info'],
    ['[request{user=ada}]=debug,off', 'off'],
    [',', 'info'],
    ['info,debug', 'debug']
  ]) {
    assert.equal(checkedLevel(text), level, text);
  }
});

test('a lambda gets the request with values, and answers with some', async () => {
  const tester = tested((plugin) => {
    plugin.op('echo', ({ args }, { context }) => ({ args, day: args[0], user: context.user_id }));
    plugin.op('nothing', () => {});
  });
  const day = new Date(12345);
  const answer = await tester.lambda('echo', [day, new Reference('room/1')], { userId: 'u1' });
  assert.deepEqual(answer.day, day);
  assert.deepEqual(answer.args[1], new Reference('room/1'));
  assert.equal(answer.user, 'u1');
  assert.equal(await tester.lambda('nothing'), null);
  await assert.rejects(tester.lambda('missing'), { code: ErrorCodes.UndefinedOperation });
});

test('errors travel with code and info; others are unexpected', async () => {
  const tester = tested((plugin) => {
    plugin.op('refuse', () => {
      throw new SkytrailError('not so', ErrorCodes.InvalidArgument, { arguments: ['x'] });
    });
    plugin.op('dated', () => {
      throw new SkytrailError('later', 102, { when: new Date('2026-11-20T12:00:00Z') });
    });
    plugin.op('break', () => null.member);
    plugin.op('odd', () => Promise.reject('a text'));
    plugin.op('large', () => 1n);
  });
  const info = { arguments: ['x'] };
  await assert.rejects(tester.lambda('refuse'), { message: 'not so', code: 108, info });
  // Values in `info` are encoded as in results.
  const when = { $type: 'date', $date: '2026-11-20T12:00:00.000Z' };
  await assert.rejects(tester.lambda('dated'), { code: 102, info: { when } });
  await assert.rejects(tester.lambda('break'), (error) => {
    assert.equal(error.code, 10000);
    assert.match(error.info.trace, /TypeError: .*null/);
    return true;
  });
  await assert.rejects(tester.lambda('odd'), { message: 'a text', code: 10000 });
  await assert.rejects(tester.lambda('large'), /bigint cannot be sent/);
});

test('headers are read and sent as they are, whatever their alphabet', async () => {
  const tester = tested((plugin) => {
    plugin.handler('name', ({ headers }) => {
      const body = [headers.get('x-name'), headers.get('X-LATIN'), headers.get('x-none')];
      return new SkygearResponse({ headers: { 'X-Name': headers.get('X-NAME') }, body });
    });
    plugin.handler('fetch', ({ headers }) => Object.fromEntries(new Headers(headers)));
  });
  const headers = { 'X-Name': ['山田', '太郎'], 'X-Latin': 'é' };
  const answer = await tester.request('GET', '/name', { headers });
  assert.deepEqual(answer.json(), ['山田, 太郎', 'é', null]);
  assert.equal(answer.headers.get('x-name'), '山田, 太郎');
  const plain = await tester.request('GET', '/fetch', { headers: new Headers({ 'X-A': 'b' }) });
  assert.deepEqual(plain.json(), { 'x-a': 'b' });
});

test('headers are changed and gone through as those of the platform', () => {
  const ours = new SkygearResponse().headers;
  const theirs = new Headers();
  for (const headers of [ours, theirs]) {
    headers.set('X-B', 1);
    headers.append('x-a', 'one');
    headers.append('X-A', 'two');
    headers.append('Set-Cookie', 'a=1');
    headers.append('Set-Cookie', 'b=2');
    headers.set('x-c', 'c');
    headers.delete('X-C');
  }
  assert.deepEqual([...ours], [...theirs]);
  assert.deepEqual([...ours.keys()], [...theirs.keys()]);
  assert.deepEqual([...ours.values()], [...theirs.values()]);
  assert.deepEqual(ours.getSetCookie(), ['a=1', 'b=2']);
  assert.deepEqual([ours.has('x-B'), ours.has('x-c')], [true, false]);
  const seen = [];
  ours.forEach((value, name) => seen.push([name, value]));
  assert.deepEqual(seen, [...theirs]);
});

test('handlers take and give bytes, text, JSON, headers', async () => {
  const tester = tested((plugin) => {
    plugin.handler('bytes', ({ body }) => Buffer.concat([Buffer.from([0, 255]), body]));
    plugin.handler('tree/', ({ method, path, url, query, searchParams, headers }) => ({
      method,
      all: searchParams.getAll('x'),
      path,
      url,
      query,
      agent: headers.get('user-agent')
    }));
    plugin.handler('tree/leaf', () => 'a leaf', { method: 'GET' });
    plugin.handler('cookies', () => {
      const headers = { 'Set-Cookie': ['a=1', 'b=2'], 'X-Two-Words': 'yes' };
      return new SkygearResponse({ statusCode: 201, headers, body: 'made' });
    });
    plugin.handler('fetch', () => new Response('{}', { status: 418, headers: { 'X-A': 'b' } }));
    plugin.handler('form', (request) => [request.form().get('a'), request.text()]);
    plugin.handler('buffer', () => new Uint8Array([0, 255]).buffer);
    plugin.handler('fields', (request) => request.form());
    plugin.handler('agent', ({ headers }) => headers);
    plugin.handler('nothing', () => {});
  });
  const bytes = await tester.request('POST', '/bytes', { body: Buffer.from([128]) });
  assert.deepEqual([...bytes.body], [0, 255, 128]);
  assert.equal(bytes.headers.get('Content-Type'), 'application/octet-stream');
  const headers = { 'User-Agent': 'me' };
  const tree = await tester.request('PUT', '/tree/a%20b?x=0&x=1&y=2', { headers });
  assert.equal(tree.json().path, '/tree/a b');
  assert.equal(tree.json().url, '/tree/a b?x=0&x=1&y=2');
  // As the server decodes it.
  for (const [url, path] of [
    ['/tree/a b/é', '/tree/a b/é'],
    ['/tree/50%/%zz/%e3%81%82%ff', '/tree/50%/%zz/あ\ufffd'],
    ['/tree/a%2Fb', '/tree/a/b']
  ]) {
    assert.equal((await tester.request('GET', url)).json().path, path);
  }
  assert.deepEqual(tree.json().all, ['0', '1']);
  assert.deepEqual([tree.json().query, tree.json().agent], [{ x: '1', y: '2' }, 'me']);
  assert.equal((await tester.request('GET', '/tree/leaf')).text(), 'a leaf');
  const cookies = await tester.request('GET', '/cookies');
  assert.deepEqual([cookies.statusCode, cookies.headers.get('x-two-words')], [201, 'yes']);
  const wire = await tester.ask('handler', 'cookies', { method: 'GET', path: '/cookies' });
  assert.deepEqual(wire.header['Set-Cookie'], ['a=1', 'b=2']);
  assert.deepEqual(wire.header['X-Two-Words'], ['yes']);
  const fetched = await tester.request('GET', '/fetch');
  assert.deepEqual([fetched.statusCode, fetched.headers.get('x-a')], [418, 'b']);
  assert.deepEqual((await tester.request('POST', '/form', { body: 'a=b' })).json(), ['b', 'a=b']);
  assert.deepEqual([...(await tester.request('GET', '/buffer')).body], [0, 255]);
  const fields = await tester.request('POST', '/fields', { body: 'a=b&c=d&c=e' });
  assert.deepEqual(fields.json(), { a: 'b', c: ['d', 'e'] });
  const agent = await tester.request('GET', '/agent', { headers });
  assert.deepEqual(agent.json(), { 'user-agent': 'me' });
  assert.equal((await tester.request('GET', '/nothing')).statusCode, 204);
  await assert.rejects(tester.request('PATCH', '/bytes'), { code: 117, status: 404 });
});

test('hooks run in order, each on what the one before left', async () => {
  const seen = [];
  const tester = tested((plugin) => {
    plugin.beforeSave('note', (note) => void (note.title = note.title.trim()));
    plugin.beforeSave('note', function second(note, original) {
      seen.push(note.title, original?.title);
      return new Record(note._id, { title: `${note.title}!` });
    });
    plugin.beforeSave('other', () => assert.fail('of another type'));
    plugin.beforeDelete('note', (note) => {
      if (note.locked) throw new SkytrailError('locked', ErrorCodes.PermissionDenied);
    });
    plugin.beforeSave('odd', () => 'a text');
  });
  const original = new Record('note/1', { title: 'old' });
  const saved = await tester.beforeSave(new Record('note/1', { title: ' hi ' }), original);
  assert.equal(saved.title, 'hi!');
  assert.deepEqual(seen, ['hi', 'old']);
  await tester.beforeDelete(saved);
  const locked = tester.beforeDelete(new Record('note/1', { locked: true }));
  await assert.rejects(locked, { code: 102 });
  await assert.rejects(tester.beforeSave(new Record('odd')), /returns the record/);
});

test('after-hooks learn which delivery it is, and say what is to come of it', async () => {
  const deliveries = [];
  const tester = tested((plugin) => {
    plugin.afterSave('note', (note, original, { delivery, progress }) => {
      deliveries.push(delivery);
      progress();
      if (note.title === 'bad') throw new Drop('never');
      if (note.title === 'early') throw new RetryAfter(1500);
    });
  });
  await tester.afterSave(new Record('note/1', { title: 'good' }));
  assert.equal(deliveries[0].attempt, 1);
  assert.equal(tester.numProgress, 1);
  const bad = tester.afterSave(new Record('note/1', { title: 'bad' }));
  await assert.rejects(bad, { info: { drop: true } });
  const early = tester.afterSave(new Record('note/1', { title: 'early' }));
  const later = { code: 10000, message: 'not now', info: { retry_after_ms: 1500 } };
  await assert.rejects(early, later);
});

test('timers, events and providers', async () => {
  let ticks = 0;
  const names = [];
  const tester = tested((plugin) => {
    plugin.every('@hourly', function tick() {
      ticks += 1;
    });
    plugin.event('before-plugins-ready', ({ config }) => void names.push(config.app.name));
    plugin.event('before-plugins-ready', () => void names.push('second'));
    plugin.provides('auth', 'pin', {
      login({ auth_data: { name, pin } }) {
        if (pin !== 1234) throw new SkytrailError('wrong', ErrorCodes.InvalidCredentials);
        return { principal_id: name };
      }
    });
    plugin.provides(
      'auth',
      'class',
      class {
        login() {
          return {};
        }
      }
    );
  });
  await tester.runTimer('tick');
  await tester.start({ app: { name: 'myapp' } });
  assert.deepEqual([ticks, names], [1, ['myapp', 'second']]);
  assert.deepEqual(await tester.login('pin', { name: 'ada', pin: 1234 }), { principal_id: 'ada' });
  await assert.rejects(tester.login('pin', { name: 'ada' }), { code: 105 });
  await assert.rejects(tester.login('class', {}), /should return a principal_id/);
  const logout = { action: 'logout', auth_data: {} };
  await assert.rejects(tester.ask('provider', 'pin', logout), { code: 111 });
  await assert.rejects(tester.ask('new-kind', 'x', {}), { code: 117 });
});

test('static assets are served from their folder and no other', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'assets-'));
  t.after(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, 'a.css'), 'p {}');
  const tester = tested((plugin) => plugin.staticAsset('/demo', () => folder));
  const found = await tester.request('GET', '/static/demo/a.css');
  assert.equal(found.text(), 'p {}');
  assert.equal(found.headers.get('Content-Type'), 'text/css; charset=utf-8');
  for (const path of ['demo/b.css', 'demo/', 'other/a.css', 'demo/../../etc/passwd', 'demo/a\0b']) {
    const param = { method: 'GET', path: `/static/${path}` };
    await assert.rejects(tester.ask('handler', 'static/', param), { code: 110 }, path);
  }
});

test('nobody has no name to act in', async () => {
  const tester = tested((plugin) => {
    plugin.op('as', ({ args: [user] }, { api }) => api.asUser(user).action('any'));
    plugin.op('as-absent', (_, { context, api }) => api.asUser(context.user_id).action('any'));
  });
  tester.onAction('any', 'done');
  const refused = { message: /asUser needs a user's id/ };
  for (const nobody of [null, '']) await assert.rejects(tester.lambda('as', [nobody]), refused);
  await assert.rejects(tester.lambda('as-absent'), refused);
  assert.deepEqual(tester.calls, []);
});

test('calls can have only the rights of a user', async () => {
  const tester = tested((plugin) => {
    plugin.op('find', ({ args: [user] }, { api }) => api.withRightsOf(user).query('note'));
    plugin.op('then-as', ({ args: [user] }, { api }) => api.withRightsOf(user).asUser('u2').action('any'));
  });
  tester.onAction('record:query', []);
  tester.onAction('any', null);
  await tester.lambda('find', ['u1']);
  await tester.lambda('then-as', ['u1']);
  const sent = tester.calls.map(({ _user_id, _rights }) => [_user_id, _rights]);
  assert.deepEqual(sent, [['u1', 'user'], ['u2', undefined]]);
  const refused = { message: /withRightsOf needs a user's id/ };
  for (const nobody of [null, '']) await assert.rejects(tester.lambda('find', [nobody]), refused);
  assert.equal(tester.calls.length, 2);
});

test('the API reads what the server answers', async () => {
  const tester = tested((plugin) => {
    plugin.op('save', async (_, { api }) => {
      const [good, bad] = await api.asUser('u1').save([new Record('note/1'), new Record('note/2')]);
      return [good.title, bad.code, bad.message];
    });
    plugin.op('find', async (_, { api }) => {
      const notes = await api.query(new Query('note').equalTo('title', 'hi'));
      return notes.map((note) => note._id);
    });
    plugin.op('one', (_, { api }) => api.fetch('note/1').then((note) => note.title));
    plugin.op('remove', (_, { api }) => api.delete(new Record('note/1')));
    plugin.op('other', ({ args }, { api }) => api.lambda('far:away', args));
    plugin.op('publish', (_, { api }) => api.publish('room', { day: new Date(0) }));
    plugin.op('unknown', (_, { api }) => api.action('no:such'));
  });
  const refusal = new SkytrailError('no', ErrorCodes.Duplicated);
  tester.onAction('record:save', [new Record('note/1', { title: 'hi' }), refusal]);
  assert.deepEqual(await tester.lambda('save'), ['hi', 109, 'no']);
  assert.equal(tester.calls[0]._user_id, 'u1');
  tester.onAction('record:query', [new Record('note/1'), new Record('note/2')]);
  assert.deepEqual(await tester.lambda('find'), ['note/1', 'note/2']);
  tester.onAction('record:fetch', ({ ids }) => ids.map((id) => new Record(id, { title: `of ${id}` })));
  assert.equal(await tester.lambda('one'), 'of note/1');
  tester.onAction('record:delete', [new SkytrailError('kept', 102)]);
  await assert.rejects(tester.lambda('remove'), { code: 102 });
  tester.onAction('far:away', ({ args }) => ({ twice: args[0] * 2 }));
  assert.deepEqual(await tester.lambda('other', [21]), { twice: 42 });
  await tester.lambda('publish');
  assert.deepEqual(tester.published, [{ channels: ['room'], data: { day: new Date(0) } }]);
  await assert.rejects(tester.lambda('unknown'), { code: 117 });
});

test('saves say what they require', async () => {
  const noon = new Date('2024-01-01T12:00:00Z');
  const free = new Query('room').equalTo('taken_by', null).lessThan('seen', noon);
  const tester = tested((plugin) => {
    plugin.op('save', async (_, { api }) => {
      const room = new Record('room/1', { name: 'r' });
      await api.save(room);
      room.access = [];
      await api.save(room, { if: free });
      await api.save(room, { if: new Query('room') });
      await api.save([room], { createOnly: true, atomic: true });
    });
  });
  tester.onAction('record:save', ({ records }) => records);
  await tester.lambda('save');
  const [plain, guarded, present, created] = tester.calls;
  assert.deepEqual([plain.keep_access, plain.if, plain.create_only], [true, undefined, undefined]);
  assert.equal('_access' in plain.records[0], false);
  const [operator, isFree, seen] = guarded.if;
  assert.deepEqual([operator, isFree[0], seen[0], seen[2]], ['and', 'eq', 'lt', noon]);
  assert.deepEqual(guarded.records[0]._access, []);
  assert.deepEqual(present.if, []);
  assert.deepEqual([created.create_only, created.keep_access], [true, true]);
});

test('a history is read page by page, and the past asked for by moment', async () => {
  const noon = new Date('2024-01-01T12:00:00Z');
  const tester = tested((plugin) => {
    plugin.op('walk', async (_, { api }) => {
      const found = [];
      for await (const version of api.history('note/1', { after: noon, page: 1 })) {
        const { record, changes, time } = version;
        found.push([version.version, record?.n ?? null, changes.n.after, time.getTime()]);
        if (version.version === 2) await api.restore('note/1', version);
      }
      await api.fetch('note/1', { asOf: 7 });
      await api.query('note', { asOf: noon });
      return found;
    });
  });
  tester.onAction('history:list', ({ until = 3 }) => ({
    versions: [
      {
        position: until * 10,
        version: until,
        kind: 'record.changed',
        time: '2024-01-01T00:00:00Z',
        actor: { user: 'u1', key: 'client', origin: 'api' },
        request_id: null,
        hooks: [],
        record: until === 3 ? null : { _id: 'note/1', n: until },
        changes: { n: { after: until } }
      }
    ],
    next: until > 1 ? until - 1 : null
  }));
  tester.onAction('history:restore', { _id: 'note/1', n: 2 });
  tester.onAction('record:fetch', [new Record('note/1')]);
  tester.onAction('record:query', []);
  const at = Date.parse('2024-01-01T00:00:00Z');
  const expected = [
    [3, null, 3, at],
    [2, 2, 2, at],
    [1, 1, 1, at]
  ];
  assert.deepEqual(await tester.lambda('walk'), expected);
  const moments = tester.calls.map((call) => call.as_of ?? call.after);
  const iso = noon.toISOString();
  assert.deepEqual(moments, [iso, iso, 20, iso, 7, iso]);
});

test('the time of a version or a record means its microsecond when it is sent', async () => {
  const [first, second] = ['2026-11-20T12:00:00.123456Z', '2026-11-20T12:00:00.123999Z'];
  const tester = tested((plugin) => {
    plugin.op('look', async (_, { api }) => {
      const note = await api.fetch('note/1');
      const { value: version } = await api.history('note/1').next();
      await api.fetch('note/1', { asOf: note.createdAt });
      await api.query('note', { asOf: note.updatedAt });
      await api.restore('note/1', version.time);
      for await (const _ of api.history('note/1', { after: version.time, until: note.updatedAt }));
      version.time.setMilliseconds(7);
      await api.fetch('note/1', { asOf: version.time });
    });
  });
  const note = { _id: 'note/1', _created_at: first, _updated_at: second };
  tester.onAction('record:fetch', [Record.fromWire(note)]);
  tester.onAction('record:query', []);
  tester.onAction('history:restore', note);
  const version = { position: 1, version: 1, time: first, record: null };
  tester.onAction('history:list', { versions: [version], next: null });
  await tester.lambda('look');
  const sent = tester.calls.map(({ as_of, after, until }) => as_of ?? (after && [after, until]));
  const changed = '2026-11-20T12:00:00.007Z';
  assert.deepEqual(sent.slice(2), [first, second, first, [first, second], changed]);
});

test('a request that is over its time is answered, also when nothing else keeps the process', () => {
  const program = (fn) => `
    import { Plugin } from './src/index.js';
    import { PluginTester } from './src/testing.js';
    const plugin = new Plugin('TEST');
    const tester = new PluginTester(plugin);
    tester.onAction('slow', () => new Promise(() => {}));
    plugin.op('wait', ${fn});
    await tester.lambda('wait', [], { timeoutMs: 5 }).catch((error) => console.log(error.message));`;
  for (const fn of [
    '(_, { signal }) => new Promise((_, no) => signal.addEventListener("abort", () => no(signal.reason)))',
    '() => new Promise(() => {})',
    '(_, { api }) => api.action("slow")'
  ]) {
    const options = { cwd: new URL('..', import.meta.url), encoding: 'utf8' };
    const { stdout, status } = spawnSync(process.execPath, ['--input-type=module', '-e', program(fn)], options);
    assert.deepEqual([stdout, status], ['cancelled: deadline\n', 0], fn);
  }
});

test('a call ends with its time and its signal, as with a server', async () => {
  const tester = tested((plugin) => {
    plugin.op('brief', (_, { api }) => api.action('slow', {}, { timeoutMs: 5 }));
    plugin.op('aborted', (_, { api }) => {
      const controller = new AbortController();
      const call = api.action('slow', {}, { signal: controller.signal });
      controller.abort(new SkytrailError('enough', 102));
      return call;
    });
    plugin.op('many', async (_, { api }) => {
      await Promise.all(Array.from({ length: 20 }, () => api.action('quick')));
    });
  });
  tester.onAction('slow', () => new Promise(() => {}));
  tester.onAction('quick', () => null);
  const warnings = [];
  const onWarning = (warning) => warnings.push(warning.name);
  process.on('warning', onWarning);
  await assert.rejects(tester.lambda('brief'), { code: ErrorCodes.ResponseTimeout });
  await assert.rejects(tester.lambda('aborted'), { code: 102, message: 'enough' });
  await tester.lambda('many');
  await new Promise(setImmediate);
  process.off('warning', onWarning);
  assert.deepEqual(warnings, []);
});

test('outside of a run there is nobody to call', async () => {
  await assert.rejects(new Plugin('X').api.fetch('note/1'), /nothing was sent/);
  assert.equal(new Plugin('X').current, null);
});
