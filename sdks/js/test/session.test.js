import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ProtocolError } from '../src/messages.js';
import { Session } from '../src/session.js';

const WELCOME = {
  type: 'welcome',
  session: 's1',
  secret: 'x',
  resumed: false,
  heartbeat_ms: 10_000,
  resume_ms: 15_000,
  max_message: 10_000,
  features: ['resume']
};

function opened(welcome = {}) {
  const session = new Session({ plugin: 'P', worker: 'w', window: 4, generation: 7 });
  session.connect(0);
  session.takeOutput(0);
  session.receive(JSON.stringify({ ...WELCOME, ...welcome }), 0);
  return session;
}

const output = (session, now = 0) => session.takeOutput(now).map((text) => JSON.parse(text));
const ask = (session, seq, id) =>
  session.receive(JSON.stringify({ type: 'request', seq, id, kind: 'op', name: 'x' }), 0);

test('hello says who the worker is', () => {
  const session = new Session({ plugin: 'P', worker: 'w', window: 4, generation: 7 });
  session.connect(0, 12);
  assert.deepEqual(output(session), [
    {
      type: 'hello',
      plugin: 'P',
      worker: 'w',
      generation: 7,
      window: 4,
      max_message: 8388608,
      features: ['resume', 'deliver'],
      sdk: 'skytrail-js/0.1',
      from: 12
    }
  ]);
  assert.throws(() => session.receive('{"type":"ping"}', 0), ProtocolError);
});

test('what is sent is numbered, and acknowledges what came', () => {
  const session = opened();
  const { request } = ask(session, 1, 'r1');
  assert.equal(session.numInFlight, 1);
  assert.equal(session.respond(request, { result: undefined }), true);
  assert.equal(session.respond(request, { result: 2 }), false);
  session.call({ action: 'a' }, 'r1', 99.5);
  assert.deepEqual(output(session), [
    { type: 'response', id: 'r1', result: null, seq: 1, ack: 1 },
    { type: 'call', id: 'c1', payload: { action: 'a' }, timeout_ms: 100, parent: 'r1', seq: 2, ack: 1 }
  ]);
});

test('an answer that is too large, or no JSON, becomes an error', () => {
  const session = opened();
  const large = ask(session, 1, 'r1').request;
  session.respond(large, { result: 'x'.repeat(10_000) });
  const circular = {};
  circular.self = circular;
  session.respond(ask(session, 2, 'r2').request, { result: circular });
  const [first, second] = output(session);
  // The client did nothing wrong.
  assert.equal(first.error.code, 10000);
  const bound = /^an answer of 10\d\d\d bytes is above the server's limit of 10000, PLUGIN_MAX_MESSAGE$/;
  assert.match(first.error.message, bound);
  assert.match(second.error.message, /refers to itself/);
  assert.throws(() => session.call({ a: 'x'.repeat(10_000) }, undefined, 1), { status: 413 });
});

/** Returns lists nested this deep. */
function nested(depth) {
  let value = 'x';
  for (let level = 0; level < depth; level += 1) value = [value];
  return value;
}

test('an error whose info cannot be sent keeps its code and message', () => {
  const session = opened({ max_message: 5000 });
  const infos = [{ why: 1n }, { why: 'x'.repeat(5000) }, { why: nested(70) }];
  for (const [index, info] of infos.entries()) {
    const { request } = ask(session, index + 1, `r${index + 1}`);
    session.respond(request, { error: { code: 102, message: 'no', info } });
  }
  const answers = output(session);
  assert.equal(answers.length, 3);
  for (const { error } of answers) {
    assert.deepEqual([error.code, error.message], [102, 'no']);
    // It is in the stack, which developers see.
    assert.match(error.info.trace, /^its info cannot be sent: /);
  }
});

test('half an emoji, or too deep nesting, fails its own request alone', () => {
  const session = opened();
  const half = 'ab😀'.slice(0, 3);
  const results = [half, { [half]: 1 }, [`\\${half}`], nested(64)];
  for (const [index, result] of results.entries()) {
    session.respond(ask(session, index + 1, `r${index + 1}`).request, { result });
  }
  session.respond(ask(session, 5, 'r5').request, { result: 'as before' });
  const [first, second, third, fourth, fifth] = output(session);
  for (const { error } of [first, second, third]) {
    assert.equal(error.code, 10000);
    assert.match(error.message, /half of a surrogate pair/);
  }
  assert.match(fourth.error.message, /nested deeper than 64/);
  assert.deepEqual([fifth.result, fifth.seq], ['as before', 5]);
  assert.throws(() => session.call({ half }, undefined, 1), /half of a surrogate pair/);
  assert.throws(() => session.call(nested(64), undefined, 1), /nested deeper than 64/);
  assert.equal(session.call({}, undefined, 1), 'c1');
});

test('what cannot be written is answered, whatever writing it throws', () => {
  const session = opened();
  const throwing = (thrown) => ({ toJSON: () => { throw thrown; } });
  const long = throwing(new Error('x'.repeat(20_000)));
  session.respond(ask(session, 1, 'r1').request, { result: long });
  session.respond(ask(session, 2, 'r2').request, { error: throwing(Symbol('x')) });
  session.respond(ask(session, 3, 'r3').request, { result: 1 });
  const [first, second, third] = output(session);
  assert.match(first.error.message, /^x+$/);
  assert.equal(second.error.message, 'Symbol(x)');
  assert.deepEqual([third.result, third.seq], [1, 3]);
});

test('what looks like half an emoji, or like nesting, in a text is a text', () => {
  const session = opened();
  const texts = ['\\ud83d', '"\\ud83d', '[{'.repeat(100), '\\"[', '😀'];
  session.respond(ask(session, 1, 'r1').request, { result: [...texts, nested(61)] });
  assert.deepEqual(output(session)[0].result, [...texts, nested(61)]);
});

test('an error says what is wrong though its text has half an emoji', () => {
  const session = opened();
  const error = { code: 108, message: 'not 😀'.slice(0, 5), info: { '\ud83d': 1 } };
  session.respond(ask(session, 1, 'r1').request, { error });
  const expected = { code: 108, message: 'not \ufffd', info: { '\ufffd': 1 } };
  assert.deepEqual(output(session)[0].error, expected);
});

test('a resumed session sends again what the server has not', () => {
  const session = opened();
  session.respond(ask(session, 1, 'r1').request, { result: 1 });
  session.takeOutput(0);
  session.disconnect();
  session.respond(
    { id: 'r9', session: 1 },
    { result: 'nobody asked for this' }
  );
  session.call({ action: 'a' }, undefined, 1);
  assert.deepEqual(session.takeOutput(0), []);
  session.connect(1);
  assert.deepEqual(output(session)[0].resume, { session: 's1', secret: 'x', received: 1 });
  const event = session.receive(JSON.stringify({ ...WELCOME, resumed: true, received: 0 }), 1);
  assert.deepEqual(event, { type: 'welcome', isResumed: true, isLost: false });
  assert.deepEqual(
    output(session).map(({ type, seq }) => [type, seq]),
    [
      ['response', 1],
      ['call', 2]
    ]
  );
  assert.equal(ask(session, 1, 'r1'), null);
  assert.equal(ask(session, 2, 'r2').request.id, 'r2');
});

test('a session that is not resumed is lost, and its requests with it', () => {
  const session = opened();
  const { request } = ask(session, 1, 'r1');
  session.disconnect();
  session.connect(1);
  session.takeOutput(1);
  const event = session.receive(JSON.stringify({ ...WELCOME, session: 's2' }), 1);
  assert.deepEqual(event, { type: 'welcome', isResumed: false, isLost: true });
  assert.equal(session.number, 2);
  assert.equal(session.respond(request, { result: 1 }), false);
  assert.equal(ask(session, 1, 'r1').request.session, 2);
});

test('a session of which too much was given up is not resumed', () => {
  const session = opened();
  session.disconnect();
  for (let index = 0; index < 1001; index += 1) session.call({}, undefined, 1);
  assert.equal(session.isResumable, false);
  session.connect(1);
  assert.equal(output(session)[0].resume, undefined);
});

test('pings go out after a silence, and a silent server is dead', () => {
  const session = opened();
  assert.equal(session.tick(9999), true);
  assert.deepEqual(output(session), []);
  assert.equal(session.tick(10_000), true);
  assert.deepEqual(output(session, 10_000), [{ type: 'ping', ack: 0 }]);
  session.receive('{"type":"ping"}', 12_000);
  assert.deepEqual(output(session, 12_000), [{ type: 'pong', ack: 0 }]);
  assert.equal(session.tick(41_999), true);
  assert.equal(session.tick(42_000), false);
});

test('much that came is acknowledged though nothing is sent', () => {
  const session = opened();
  for (let seq = 1; seq <= 100; seq += 1) ask(session, seq, `r${seq}`);
  assert.deepEqual(output(session), [{ type: 'ping', ack: 100 }]);
});

test('a worker that pauses goes on to do so, whether or not its session is resumed', () => {
  for (const resumed of [true, false]) {
    const session = opened();
    session.setWindow(0);
    assert.equal(output(session)[0].size, 0);
    session.disconnect();
    session.connect(0);
    assert.equal(output(session)[0].window, 1);
    session.receive(JSON.stringify({ ...WELCOME, resumed, received: 1 }), 0);
    assert.deepEqual(output(session).map(({ type, size }) => [type, size]), [['window', 0]]);
  }
});

const WRONG = {
  'no JSON': '{',
  'no object': '[]',
  'no type': '{}',
  'a gap': '{"type":"drained","seq":3}',
  'no number': '{"type":"drained"}',
  'a number that is none': '{"type":"drained","seq":"1"}',
  'a request without an id': '{"type":"request","seq":1,"kind":"op"}',
  'an acknowledgement of what was never sent': '{"type":"drained","seq":1,"ack":1}'
};
for (const [what, text] of Object.entries(WRONG)) {
  test(`the server may not send ${what}`, () => {
    assert.throws(() => opened().receive(text, 0), ProtocolError);
  });
}

test('an unknown message of a newer server is noted, and counted', () => {
  const session = opened();
  assert.equal(session.receive('{"type":"new","seq":1}', 0).type, 'note');
  assert.equal(ask(session, 2, 'r1').request.id, 'r1');
});

/** Numbers that look random but are the same in every run. */
function dice(seed) {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

test('whatever is cut, each message arrives once and in order', () => {
  for (let seed = 1; seed <= 200; seed += 1) playCuts(dice(seed));
});

/** Two ends of one session, with a connection that is cut at random places. */
function playCuts(roll) {
  const session = opened();
  const server = { sent: [], received: 0, got: [] };
  const wire = { up: [], down: [] };
  const got = [];
  const collect = () => wire.up.push(...session.takeOutput(0));
  const serverHears = (message) => {
    if (message.seq === undefined || message.seq <= server.received) return;
    assert.equal(message.seq, server.received + 1);
    server.received = message.seq;
    server.got.push(message.id);
  };
  for (let step = 0; step < 60; step += 1) {
    const kind = roll(5);
    if (kind === 0) session.call({}, undefined, 1);
    if (kind === 1) {
      const seq = server.sent.length + 1;
      server.sent.push(JSON.stringify({ type: 'cancel', seq, id: `r${seq}` }));
      wire.down.push(server.sent.at(-1));
    }
    collect();
    if (kind === 2 && wire.up.length > 0) serverHears(JSON.parse(wire.up.shift()));
    if (kind === 3 && wire.down.length > 0) {
      const event = session.receive(wire.down.shift(), 0);
      if (event !== null) got.push(event.id);
      collect();
    }
    if (kind === 4) {
      // What is in flight is lost; either end may have received it.
      wire.up = [];
      session.disconnect();
      if (roll(2) === 0) session.call({}, undefined, 1);
      session.connect(0);
      const [hello] = session.takeOutput(0).map((text) => JSON.parse(text));
      wire.down = server.sent.slice(hello.resume.received);
      const resumed = { ...WELCOME, resumed: true, received: server.received };
      session.receive(JSON.stringify(resumed), 0);
      collect();
    }
  }
  for (const text of wire.up) serverHears(JSON.parse(text));
  for (const text of wire.down) {
    const event = session.receive(text, 0);
    if (event !== null) got.push(event.id);
  }
  assert.deepEqual(
    got,
    server.sent.map((_, index) => `r${index + 1}`)
  );
  assert.deepEqual(
    server.got,
    server.got.map((_, index) => `c${index + 1}`)
  );
  assert.equal(session.call({}, undefined, 1), `c${server.got.length + 1}`);
}
