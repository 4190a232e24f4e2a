import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';

import { ConnectionLost, Plugin, Refused, SkytrailError } from '../src/index.js';
import { QUIET, StandIn } from './stand-in.js';

/** Starts a plugin that serves a server standing in for the real one. */
async function served(t, register, settings = {}, prepare = () => {}) {
  const server = await StandIn.start();
  prepare(server);
  const plugin = new Plugin('TEST');
  register(plugin);
  const { endpoint } = server;
  const end = plugin.serve({ endpoint, masterKey: 'secret', log: QUIET, drainMs: 100, ...settings });
  t.after(async () => {
    plugin.stop();
    server.close();
    await end.catch(() => {});
  });
  await server.find(({ type }) => type === 'hello');
  return { server, plugin, end };
}

/** A promise, and the functions to settle it. */
function deferred() {
  const it = {};
  it.promise = new Promise((resolve, reject) => Object.assign(it, { resolve, reject }));
  return it;
}

test('a worker shows its key, says who it is, and answers init', async (t) => {
  const { server, plugin } = await served(t, (it) => it.op('a', () => 1), { generation: 3 });
  const [{ headers }] = server.connections;
  assert.equal(headers['x-skygear-api-key'], 'secret');
  assert.equal(headers['sec-websocket-protocol'], 'skygear.plugin.v1');
  assert.equal(headers.origin, undefined);
  assert.equal(server.heard[0].generation, 3);
  const { result } = await server.ask('r1', 'event', 'init', { param: { config: {} } });
  assert.deepEqual(result.op, [{ name: 'a', key_required: false, user_required: false }]);
  server.send({ type: 'registered', ok: true, points: { op: 1 } });
  server.send({ type: 'ready', state: 'ready' });
  await server.until(() => plugin.state === 'ready');
});

test('a position counts until the server has taken it; a function is asked each time', async (t) => {
  let kept = 7;
  for (const [from, expected] of [[7, [7, 7, undefined]], [async () => kept++, [7, 8, 9]]]) {
    const { server, plugin } = await served(t, () => {}, { from }, (it) => (it.resumes = false));
    for (let number = 1; number <= 3; number += 1) {
      const hellos = () => server.heard.filter(({ type }) => type === 'hello');
      await server.until(() => hellos().length === number);
      assert.equal(hellos()[number - 1].from, expected[number - 1]);
      if (number === 2) {
        server.send({ type: 'ready', state: 'ready' });
        await server.until(() => plugin.state === 'ready');
      }
      server.socket.terminate();
      if (number < 3) await server.until(() => hellos().length === number + 1);
    }
  }
});

test('a worker that was replaced brings its answers over the next connection, and ends', async (t) => {
  const gate = deferred();
  const { server, end } = await served(t, (plugin) => plugin.op('wait', () => gate.promise));
  server.send({ type: 'request', id: 'r1', kind: 'op', name: 'wait', timeout_ms: 5000, param: {} });
  server.send({ type: 'drain', reason: 'newer generation', reconnect: false });
  server.socket.send('{"type":"ping"}');
  await server.find(({ type }) => type === 'pong');
  server.socket.terminate();
  await server.until(() => server.connections.length === 2);
  gate.resolve('done');
  await server.until(() => server.heard.filter(({ type }) => type === 'hello').length === 2);
  assert.equal((await server.response('r1')).result, 'done');
  server.send({ type: 'drained' });
  await end;
});

test('a worker that was replaced and lost its session ends', async (t) => {
  const { server, plugin, end } = await served(t, () => {});
  server.resumes = false;
  await server.until(() => plugin.state === 'registering');
  server.send({ type: 'drain', reason: 'newer generation', reconnect: false });
  server.socket.send('{"type":"ping"}');
  await server.find(({ type }) => type === 'pong');
  server.socket.terminate();
  await end;
});

test('requests run side by side, and nested ones are answered while a call waits', async (t) => {
  const { server } = await served(t, (plugin) => {
    plugin.op('save', async (_, { api }) => (await api.action('record:save', { x: 1 })).done);
    plugin.beforeSave('note', async (note) => {
      note.by = plugin.current.context.user_id;
      await plugin.api.publish('room', 1);
    });
  });
  server.send({ type: 'request', id: 'r1', kind: 'op', name: 'save', timeout_ms: 5000, param: {} });
  const call = await server.find(({ type }) => type === 'call');
  assert.equal(call.parent, 'r1');
  assert.ok(call.timeout_ms <= 5000 && call.timeout_ms > 0);
  assert.deepEqual(call.payload, { x: 1, _from_plugin: true, action: 'record:save' });
  const record = { _id: 'note/1', _type: 'record', _access: null };
  const hook = { param: { record, original: null }, context: { user_id: 'u1' }, parent: 'c1' };
  server.send({ type: 'request', id: 'r2', kind: 'hook', name: 'note.beforeSave', ...hook });
  const nested = await server.find(({ id, type }) => type === 'call' && id === 'c2');
  assert.equal(nested.parent, 'r2');
  server.send({ type: 'reply', id: 'c2', status: 200, body: {} });
  assert.equal((await server.response('r2')).result.by, 'u1');
  server.send({ type: 'reply', id: 'c1', status: 200, body: { result: { done: true } } });
  assert.equal((await server.response('r1')).result, true);
});

test('an error of an action is the answer unless it is caught', async (t) => {
  const { server } = await served(t, (plugin) => {
    plugin.op('a', (_, { api }) => api.action('x'));
  });
  const asked = server.ask('r1', 'op', 'a', { param: {} });
  await server.find(({ type }) => type === 'call');
  const error = { code: 102, message: 'not allowed', name: 'PermissionDenied' };
  server.send({ type: 'reply', id: 'c1', status: 403, body: { error } });
  assert.deepEqual((await asked).error, { code: 102, message: 'not allowed' });
});

test('whatever a function throws, something is answered', async (t) => {
  const broken = (error, member) =>
    Object.defineProperty(error, member, { get: () => { throw new Error('no'); } });
  const long = new SkytrailError('x');
  long.toJSON = () => { throw new Error('x'.repeat(9e6)); };
  const untold = 'the thrown value cannot be described';
  const thrown = [
    [Symbol('x'), 'Symbol(x)'],
    [Object.create(null), 'An unexpected error has occurred.'],
    [null, 'An unexpected error has occurred.'],
    [undefined, 'An unexpected error has occurred.'],
    [{ error: { code: 104, message: 'gone' } }, 'An unexpected error has occurred.'],
    [broken(new Error('x'), 'message'), untold],
    [broken(new Error('x'), 'stack'), 'x'],
    [Object.assign(new Error('x'), { message: Symbol('y') }), 'Symbol(y)'],
    [broken(new SkytrailError('x'), 'message'), untold],
    [long, untold],
    [new Proxy({}, { getPrototypeOf: () => { throw new Error('no'); } }), untold]
  ];
  // The log may be the plugin's own, and fail.
  const log = { ...QUIET, error: () => { throw new Error('the disk is full'); } };
  const { server } = await served(
    t,
    (plugin) => plugin.op('throw', ({ args: [index] }) => { throw thrown[index][0]; }),
    { log }
  );
  for (const [index, [, message]] of thrown.entries()) {
    const { error } = await server.ask(`r${index}`, 'op', 'throw', { param: { args: [index] } });
    assert.deepEqual([error.code, error.message], [10000, message], `${index}`);
  }
});

test('the log says what went wrong, with causes and members', async (t) => {
  const errors = [];
  const log = { ...QUIET, error: (text) => errors.push(text) };
  const { server } = await served(
    t,
    (plugin) => {
      plugin.op('fetch', () => {
        const cause = Object.assign(new Error('connect'), { code: 'ECONNREFUSED' });
        throw new TypeError('fetch failed', { cause });
      });
      plugin.op('object', () => { throw { reason: 'token expired' }; });
    },
    { log }
  );
  const fetched = await server.ask('r1', 'op', 'fetch', { param: {} });
  assert.equal(fetched.error.message, 'fetch failed');
  assert.match(fetched.error.info.trace, /TypeError: fetch failed[^]*worker\.test\.js[^]*ECONNREFUSED/);
  await server.ask('r2', 'op', 'object', { param: {} });
  assert.match(errors[0], /^op fetch failed: TypeError: fetch failed[^]*ECONNREFUSED/);
  assert.equal(errors[1], "op object failed: { reason: 'token expired' }");
});

test('a cancelled request aborts its signal and its calls, and answers', async (t) => {
  const aborted = deferred();
  const { server } = await served(t, (plugin) => {
    plugin.op('a', async (_, { signal, api }) => {
      signal.addEventListener('abort', () => aborted.resolve(signal.reason.reason));
      await api.action('slow');
    });
  });
  const asked = server.ask('r1', 'op', 'a', { param: {} });
  await server.find(({ type }) => type === 'call');
  server.send({ type: 'cancel', id: 'r1', reason: 'client-gone' });
  assert.equal(await aborted.promise, 'client-gone');
  assert.deepEqual((await asked).error, { code: 119, message: 'cancelled: client-gone' });
  await server.find(({ type, id }) => type === 'cancel' && id === 'c1');
});

test('a call that nobody awaits yet, or ever, leaves the process alone', async (t) => {
  const warnings = [];
  const log = { ...QUIET, warn: (text) => warnings.push(text) };
  const { server } = await served(
    t,
    (plugin) => {
      // The second call has no handler when both fail.
      plugin.op('pair', async (_, { api }) => {
        const [first, second] = [api.lambda('slow'), api.lambda('slow')];
        return [await first, await second];
      });
      plugin.op('forget', (_, { api }) => void api.fetch('note/1'));
      plugin.op('late', async (_, { api, signal }) => {
        const note = api.fetch('note/1');
        await sleep(60_000, null, { signal }).catch(() => {});
        return note;
      });
    },
    { log }
  );
  const asked = server.ask('r1', 'op', 'pair', { param: {} });
  await server.find(({ id, type }) => type === 'call' && id === 'c2');
  server.send({ type: 'cancel', id: 'r1', reason: 'client-gone' });
  assert.deepEqual((await asked).error, { code: 119, message: 'cancelled: client-gone' });
  // The end of a request is expected, so it is not logged.
  assert.deepEqual(warnings, []);

  const error = { code: 110, message: 'there is none', name: 'ResourceNotFound' };
  await server.ask('r2', 'op', 'forget', { param: {} });
  server.send({ type: 'reply', id: 'c3', status: 404, body: { error } });
  await server.until(() => warnings.length === 1);
  assert.match(warnings[0], /^api\.fetch failed before anything awaited it: there is none$/);

  const late = server.ask('r3', 'op', 'late', { param: {} });
  await server.find(({ id, type }) => type === 'call' && id === 'c4');
  server.send({ type: 'reply', id: 'c4', status: 404, body: { error } });
  await server.until(() => warnings.length === 2);
  server.send({ type: 'cancel', id: 'r3', reason: 'client-gone' });
  assert.equal((await late).error.code, 110);
});

test('a password in the server\'s address is not logged', async (t) => {
  const said = [];
  const log = { ...QUIET, info: (text) => said.push(text) };
  const server = await StandIn.start();
  const plugin = new Plugin('TEST');
  const endpoint = server.endpoint.replace('//', '//ada:a-secret@');
  const end = plugin.serve({ endpoint, masterKey: 'secret', log, drainMs: 100 });
  t.after(async () => {
    plugin.stop();
    server.close();
    await end.catch(() => {});
  });
  await server.until(() => said.length > 0);
  assert.equal(said[0], `connected to ${server.endpoint.replace('http', 'ws')}/_/plugin`);
});

test('what a function throws because it was cancelled is not logged as its failure', async (t) => {
  const errors = [];
  const log = { ...QUIET, error: (text) => errors.push(text) };
  const { server } = await served(
    t,
    (plugin) => plugin.op('a', (_, { signal }) => sleep(60_000, null, { signal })),
    { log }
  );
  const asked = server.ask('r1', 'op', 'a', { param: {}, timeout_ms: 10 });
  assert.deepEqual((await asked).error, { code: 119, message: 'cancelled: deadline' });
  assert.deepEqual(errors, []);
});

test('a limit holds though the server says nothing; progress starts it anew', async (t) => {
  const reasons = [];
  const { server } = await served(t, (plugin) => {
    plugin.afterSave('note', async (note, _, { signal, progress }) => {
      if (note._id === 'note/2') progress();
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      reasons.push(signal.reason.reason);
    });
  });
  for (const id of ['r1', 'r2']) {
    const record = { _id: `note/${id.slice(1)}`, _type: 'record', _access: null };
    const delivery = { id: `1/${id}`, position: 1, attempt: 1, at: '2020-01-01T00:00:00Z' };
    const hook = { kind: 'hook', name: 'note.afterSave', param: { record, original: null } };
    server.send({ type: 'request', id, timeout_ms: 20, delivery, ...hook });
  }
  await server.find(({ type, id }) => type === 'progress' && id === 'r2');
  await server.response('r1');
  await server.response('r2');
  assert.deepEqual(reasons, ['deadline', 'deadline']);
  assert.equal(server.heard.filter(({ type }) => type === 'progress').length, 1);
});

test('a broken socket takes nothing with it', async (t) => {
  const going = deferred();
  let numRuns = 0;
  const { server } = await served(t, (plugin) => {
    plugin.op('a', async (_, { api }) => {
      numRuns += 1;
      await going.promise;
      return (await api.action('x')).y;
    });
  });
  server.send({ type: 'request', id: 'r1', kind: 'op', name: 'a', timeout_ms: 30_000, param: {} });
  await server.until(() => numRuns === 1);
  server.socket.terminate();
  // The call is made while no socket is open.
  going.resolve();
  await server.until(() => server.connections.length === 2);
  const call = await server.find(({ type }) => type === 'call');
  server.send({ type: 'reply', id: call.id, status: 200, body: { result: { y: 2 } } });
  assert.equal((await server.response('r1')).result, 2);
  assert.equal(numRuns, 1);
});

test('a session that is lost fails its calls and aborts its requests', async (t) => {
  const failed = deferred();
  const { server } = await served(t, (plugin) => {
    plugin.op('a', async (_, { signal }) => {
      await plugin.api.action('x').catch((error) => failed.resolve([error, signal.reason.reason]));
    });
    plugin.op('b', () => 1);
  });
  server.send({ type: 'request', id: 'r1', kind: 'op', name: 'a', timeout_ms: 30_000, param: {} });
  await server.find(({ type }) => type === 'call');
  server.resumes = false;
  server.socket.close(1012, 'restart');
  const [error, reason] = await failed.promise;
  assert.deepEqual([error.reason, reason], ['connection-lost', 'connection-lost']);
  // The new session reuses the id; the old request's answer must not be taken for the new one's.
  server.heard = [];
  assert.equal((await server.ask('r1', 'op', 'b', { param: {} })).result, 1);
});

test('a call of nobody in particular fails when its session is lost', async (t) => {
  const { server, plugin } = await served(t, () => {});
  await server.until(() => plugin.state === 'registering');
  const call = plugin.api.action('x');
  await server.find(({ type }) => type === 'call');
  server.resumes = false;
  server.socket.terminate();
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof ConnectionLost);
    assert.match(error.message, /may have happened/);
    return true;
  });
});

const callsOf = (server) => server.heard.filter(({ type }) => type === 'call');

test('no more calls are under way than the server allows; the others wait for their turn', async (t) => {
  const { server } = await served(
    t,
    (plugin) => {
      plugin.op('many', async ({ args: [num] }, { api }) => {
        const calls = Array.from({ length: num }, (_, n) => api.action('x', { n }));
        return Promise.all(calls);
      });
      plugin.op('forget', (_, { api }) => void api.action('x'));
    },
    {},
    (it) => (it.welcome = { ...it.welcome, max_calls: 2 })
  );
  const asked = server.ask('r1', 'op', 'many', { param: { args: [7] } });
  for (let numDone = 0; numDone < 7; numDone += 1) {
    await server.until(() => callsOf(server).length === Math.min(7, numDone + 2));
    const { id, parent, payload } = callsOf(server)[numDone];
    assert.deepEqual([parent, payload.n], ['r1', numDone]);
    // What came after the ping was sent was sent before its answer.
    server.socket.send('{"type":"ping"}');
    await server.until(() => server.heard.filter(({ type }) => type === 'pong').length > numDone);
    assert.equal(callsOf(server).length, Math.min(7, numDone + 2));
    server.send({ type: 'reply', id, status: 200, body: { result: payload.n } });
  }
  assert.deepEqual((await asked).result, [0, 1, 2, 3, 4, 5, 6]);
  // Those that wait end with their request, and with its limit.
  const over = server.ask('r2', 'op', 'many', { param: { args: [9] }, timeout_ms: 30 });
  assert.equal((await over).error.code, 122);
  for (const { id } of callsOf(server).filter(({ parent }) => parent === 'r2')) {
    server.send({ type: 'reply', id, status: 499, body: { error: { code: 10000, message: 'over' } } });
  }
  const cancelled = server.ask('r3', 'op', 'many', { param: { args: [9] } });
  await server.until(() => callsOf(server).some(({ parent }) => parent === 'r3'));
  server.send({ type: 'cancel', id: 'r3', reason: 'client-gone' });
  assert.equal((await cancelled).error.message, 'cancelled: client-gone');
  // Their places are free again.
  await server.ask('r4', 'op', 'forget', { param: {} });
  assert.equal(callsOf(server).at(-1).parent, 'r4');
});

test('calls leave places to the hooks that they wait for', async (t) => {
  const { server } = await served(
    t,
    (plugin) => {
      plugin.op('save', (_, { api }) => Promise.all([1, 2, 3, 4].map(() => api.action('record:save'))));
      plugin.beforeSave('note', (_, __, { api }) => api.publish('room', 1));
    },
    {},
    (it) => (it.welcome = { ...it.welcome, max_calls: 4 })
  );
  server.send({ type: 'request', id: 'r1', kind: 'op', name: 'save', timeout_ms: 30_000, param: {} });
  await server.until(() => callsOf(server).length === 3);
  const record = { _id: 'note/1', _type: 'record', _access: null };
  const hook = { kind: 'hook', name: 'note.beforeSave', param: { record, original: null } };
  server.send({ type: 'request', id: 'r2', timeout_ms: 30_000, parent: 'c1', ...hook });
  await server.until(() => callsOf(server).length === 4);
  assert.equal(callsOf(server)[3].parent, 'r2');
});

test('calls outside of requests leave places to the hooks that they cause', async (t) => {
  const { server, plugin } = await served(
    t,
    (it) => it.beforeSave('note', (_, __, { api }) => api.publish('room', 1)),
    {},
    (it) => (it.welcome = { ...it.welcome, max_calls: 2 })
  );
  await server.until(() => plugin.state === 'registering');
  const saves = Promise.allSettled([1, 2].map(() => plugin.api.action('record:save')));
  await server.until(() => callsOf(server).length === 1);
  const record = { _id: 'note/1', _type: 'record', _access: null };
  const hook = { kind: 'hook', name: 'note.beforeSave', param: { record, original: null } };
  // The server does not know the request's parent either.
  server.send({ type: 'request', id: 'r1', timeout_ms: 30_000, ...hook });
  await server.until(() => callsOf(server).length === 2);
  assert.equal(callsOf(server)[1].parent, 'r1');
  server.send({ type: 'reply', id: 'c2', status: 200, body: { result: null } });
  await server.response('r1');
  for (const id of ['c1', 'c3']) {
    await server.find((message) => message.id === id);
    server.send({ type: 'reply', id, status: 200, body: { result: id } });
  }
  assert.deepEqual((await saves).map(({ value }) => value), ['c1', 'c3']);
});

test('a caller who does not want to wait any more says so', async (t) => {
  const { server, plugin } = await served(t, () => {});
  await server.until(() => plugin.state === 'registering');
  const controller = new AbortController();
  const call = plugin.api.action('x', {}, { signal: controller.signal });
  await server.find(({ type }) => type === 'call');
  controller.abort(new Error('enough'));
  await assert.rejects(call, /enough/);
  await server.find(({ type, id }) => type === 'cancel' && id === 'c1');
  const late = plugin.api.action('x', {}, { signal: controller.signal });
  await assert.rejects(late, /enough/);
});

test('a worker that stops drains first, and finishes what runs', async (t) => {
  const going = deferred();
  const { server, plugin, end } = await served(
    t,
    (it) => it.op('a', () => going.promise),
    { drainMs: 20_000 }
  );
  server.send({ type: 'request', id: 'r1', kind: 'op', name: 'a', timeout_ms: 30_000, param: {} });
  await server.until(() => plugin.state === 'registering');
  plugin.stop();
  assert.equal((await server.find(({ type }) => type === 'drain')).drain_ms, 20_000);
  going.resolve('done');
  assert.equal((await server.response('r1')).result, 'done');
  const closed = once(server.socket, 'close');
  server.send({ type: 'drained' });
  assert.equal((await closed)[0], 1000);
  await end;
  assert.equal(plugin.state, 'stopped');
});

test('a worker that was replaced ends; one whose server restarts comes back', async (t) => {
  const { server, end } = await served(t, () => {});
  server.send({ type: 'drain', reason: 'restart', reconnect: true, workers: 1 });
  server.send({ type: 'drained' });
  server.socket.close(1012, 'restart');
  await server.until(() => server.connections.length === 2);
  await server.until(() => server.heard.filter(({ type }) => type === 'hello').length === 2);
  assert.equal(server.heard.at(-1).resume, undefined);
  server.send({ type: 'drain', reason: 'deploy' });
  server.send({ type: 'drained' });
  await end;
});

test('a refusal ends the worker with its reasons', async (t) => {
  const { server, end } = await served(t, () => {});
  const problems = [{ list: 'timer', name: 'tick', message: 'seconds: 60 is above 59' }];
  server.send({ type: 'registered', ok: false, problems });
  server.socket.close(4004, 'registration refused');
  await assert.rejects(end, (error) => {
    assert.ok(error instanceof Refused);
    assert.equal(error.closeCode, 4004);
    assert.match(error.message, /registration refused\ntimer tick: seconds: 60 is above 59/);
    return true;
  });
});

test('a server that breaks the protocol is left, and the session with it', async (t) => {
  const { server } = await served(t, () => {});
  const closed = once(server.socket, 'close');
  server.socket.send('{');
  assert.equal((await closed)[0], 4002);
});

test('a silent server is left, and the session resumed', async (t) => {
  const { server } = await served(t, (plugin) => plugin.op('a', () => 1), {}, (it) => {
    it.welcome = { ...it.welcome, heartbeat_ms: 40 };
  });
  await server.find(({ type }) => type === 'ping');
  await server.until(() => server.connections.length === 2);
  await server.until(() => server.heard.some(({ resume }) => resume !== undefined));
});

const pathOf = (name) => fileURLToPath(new URL(name, import.meta.url));
const BIN = pathOf('../bin/skytrail-plugin.js');

/** Runs node with these arguments for a server, until it has connected. */
async function started(t, ...args) {
  const program = await launched(t, ...args);
  await program.server.find(({ type }) => type === 'hello');
  return program;
}

/** Runs node with these arguments for a server; `said` collects what it prints. */
async function launched(t, ...args) {
  const server = await StandIn.start();
  const { endpoint } = server;
  const env = { ...process.env, PLUGIN_NAME: 'CLI', MASTER_KEY: 'm', SKYGEAR_ENDPOINT: endpoint };
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  t.after(() => (child.kill('SIGKILL'), server.close()));
  const program = { server, child, said: '', ended: once(child, 'close') };
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (part) => (program.said += part));
  }
  return program;
}

/** Asks a program to end. */
async function terminate({ server, child }) {
  child.kill('SIGTERM');
  await server.find(({ type }) => type === 'drain');
  server.send({ type: 'drained' });
}

test('the command runs a file, and ends on SIGTERM when it has drained', async (t) => {
  const program = await started(t, BIN, pathOf('example.js'));
  const { server } = program;
  assert.equal(server.heard[0].plugin, 'CLI');
  assert.equal((await server.ask('r1', 'op', 'example', { param: {} })).result, 'hi');
  await terminate(program);
  assert.deepEqual(await program.ended, [0, null]);
});

/** Creates a folder with a copy of this package; returns what writes a plugin file that imports the copy. */
async function folderWithCopy(t) {
  const folder = await mkdtemp(join(tmpdir(), 'plugin-'));
  t.after(() => rm(folder, { recursive: true }));
  for (const part of ['package.json', 'src']) {
    await cp(pathOf(`../${part}`), join(folder, part), { recursive: true });
  }
  await symlink(pathOf('../node_modules'), join(folder, 'node_modules'));
  let numFiles = 0;
  return async (from, text) => {
    const file = join(folder, `plugin-${(numFiles += 1)}.js`);
    await writeFile(file, `import own, { Plugin } from '${from}';\n${text}\n`);
    return file;
  };
}

const OURS = new URL('../src/index.js', import.meta.url).href;
const COPY = './src/index.js';

test('the command finds what a file exports, by any name and of any copy', async (t) => {
  const plugin = await folderWithCopy(t);
  const notes = "const notes = new Plugin('NOTES'); notes.op('a', () => 1);";
  for (const [from, text, name] of [
    [OURS, `${notes} export { notes };`, 'NOTES'],
    [OURS, `${notes} export { notes, notes as default, own };`, 'NOTES'],
    [COPY, `${notes} export { notes as default };`, 'NOTES'],
    [COPY, "own.op('a', () => 1); export default own;", 'CLI']
  ]) {
    const { server } = await started(t, BIN, await plugin(from, text));
    assert.equal(server.heard[0].plugin, name, text);
    const { result } = await server.ask('r1', 'event', 'init', { param: { config: {} } });
    assert.deepEqual(result.op.map(({ name }) => name), ['a'], text);
  }
});

test('the command runs nothing in the place of a plugin that it does not find', async (t) => {
  const plugin = await folderWithCopy(t);
  for (const [from, text, said] of [
    [OURS, "new Plugin('NOTES').op('a', () => 1);", /registers nothing: export your plugin/],
    [COPY, "own.op('a', () => 1);", /registers nothing: export your plugin/],
    [OURS, "export const [a, b] = [new Plugin('A'), new Plugin('B')];", /2 plugins: a process can run only one/],
    [OURS, "own.op('a', () => 1); export const a = new Plugin('A');", /2 plugins: a process can run only one/]
  ]) {
    const program = await launched(t, BIN, await plugin(from, text));
    const came = program.server.find(({ type }) => type === 'hello').then(() => 'it ran');
    assert.deepEqual(await Promise.race([came, program.ended]), [1, null], text);
    assert.match(program.said, said);
  }
});

test('the command runs a file that runs its plugin itself once', async (t) => {
  const plugin = await folderWithCopy(t);
  const notes = "const notes = new Plugin('NOTES', { drainMs: 100 }); notes.op('a', () => 1);";
  for (const [from, text] of [
    [OURS, `${notes} await notes.run(); export { notes };`],
    [OURS, `${notes} await notes.run();`],
    [COPY, `${notes} export { notes }; notes.run();`]
  ]) {
    const program = await started(t, BIN, await plugin(from, text));
    assert.equal((await program.server.ask('r1', 'op', 'a', { param: {} })).result, 1);
    await terminate(program);
    const again = program.server.until(() => program.server.connections.length > 1);
    const ended = await Promise.race([program.ended, again.then(() => 'it ran again')]);
    assert.deepEqual(ended, [0, null], text);
    assert.doesNotMatch(program.said, /registers nothing/);
  }
});

test('an event is something to register', async (t) => {
  const plugin = await folderWithCopy(t);
  const file = await plugin(OURS, "own.event('init', () => own.op('a', () => 1));");
  const { server } = await started(t, BIN, file);
  const { result } = await server.ask('r1', 'event', 'init', { param: { config: {} } });
  assert.equal(result.op.length, 1);
});

test('a program ends after run, whatever it has open, and may clean up before', async (t) => {
  const program = await started(t, pathOf('program.js'));
  await terminate(program);
  assert.deepEqual(await program.ended, [0, null]);
  assert.match(program.said, /^cleaning up$/m);
});

test('a key that the server does not take is called that', async (t) => {
  const server = await StandIn.start({ verifyClient: (_, done) => done(false, 401, 'no') });
  const errors = [];
  const log = { ...QUIET, error: (text) => errors.push(text) };
  const plugin = new Plugin('TEST');
  const end = plugin.serve({ endpoint: server.endpoint, masterKey: 'wrong', log });
  t.after(async () => {
    plugin.stop();
    server.close();
    await end;
  });
  await server.until(() => errors.length > 0);
  assert.match(errors[0], /^the server refuses MASTER_KEY: status 401/);
});

test('a program that the server refuses ends with an exit code', async (t) => {
  for (const args of [[pathOf('program.js')], [BIN, pathOf('example.js')]]) {
    const { server, ended } = await started(t, ...args);
    server.socket.close(4003, 'unknown plugin');
    assert.deepEqual(await ended, [1, null]);
  }
});

test('a client who hangs up ends no program, whatever was awaited', async (t) => {
  const program = await started(t, pathOf('program.js'));
  const { server } = program;
  const asked = server.ask('r1', 'op', 'pair', { param: {} });
  await server.find(({ type, id }) => type === 'call' && id === 'c2');
  server.send({ type: 'cancel', id: 'r1', reason: 'client-gone' });
  assert.equal((await asked).error.message, 'cancelled: client-gone');
  assert.equal((await server.ask('r2', 'op', 'hello', { param: {} })).result, 'hi');
  assert.equal(program.child.exitCode, null);
  // Faults of the program itself do end it, as in any program.
  server.send({ type: 'request', id: 'r3', kind: 'op', name: 'fault', param: {} });
  assert.deepEqual(await program.ended, [1, null]);
  assert.match(program.said, /a fault of the program/);
});

test('the command says how it is used', async () => {
  const child = spawn(process.execPath, [BIN], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (part) => (said += part));
  assert.deepEqual(await once(child, 'close'), [2, null]);
  assert.match(said, /usage: skytrail-plugin FILE/);
});
