// Named checks, run one by one within their group, and reported one per line:
//
//   ok <tab> group: check
//   failed <tab> group: check <tab> why
'use strict';

const assert = require('node:assert/strict');

const TIME_LIMIT_MS = 30000;

/** A group of checks that share users and record types. */
class Group {
  constructor(name) {
    this.name = name;
    this.checks = [];
  }

  check(name, body) {
    this.checks.push({ name: `${this.name}: ${name}`, body });
  }

  async run() {
    for (const { name, body } of this.checks) {
      // Each check must finish before the next one starts: they may share a session.
      report(name, await failureOf(body));
    }
  }
}

/** Resolves to why a check failed, or to nothing. */
async function failureOf(body) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done in ${TIME_LIMIT_MS} ms`)), TIME_LIMIT_MS);
  });
  try {
    await Promise.race([body(), late]);
    return null;
  } catch (error) {
    return describe(error);
  } finally {
    clearTimeout(timer);
  }
}

function describe(error) {
  const text = error instanceof Error ? error.stack || error.message : JSON.stringify(error);
  return String(text).split('\n').slice(0, 24).join(' | ').replace(/\t/g, ' ');
}

function report(name, failure) {
  const words = failure === null ? ['ok', name] : ['failed', name, failure];
  process.stdout.write(`${words.join('\t')}\n`);
}

/** Creates something once, for the first check that asks for it. */
function once(make) {
  let made;
  return () => {
    made = made || make();
    return made;
  };
}

/** Waits for a rejection with a code and returns the error as the application sees it. */
async function refused(code, promise) {
  let answer;
  try {
    answer = await promise;
  } catch (thrown) {
    // A rejected request contains the error; a rejected record is the error.
    const error = thrown.error || thrown;
    assert.equal(error.code, code, describe(thrown));
    return error;
  }
  throw new assert.AssertionError({ message: `not refused: ${JSON.stringify(answer)}` });
}

/** Collects what arrives, and lets others wait for the next item. */
class Inbox {
  constructor() {
    this.items = [];
    this.waiting = [];
  }

  put(item) {
    const next = this.waiting.shift();
    if (next) next(item);
    else this.items.push(item);
  }

  next() {
    if (this.items.length > 0) return Promise.resolve(this.items.shift());
    return new Promise((resolve) => this.waiting.push(resolve));
  }
}

module.exports = { Group, Inbox, once, refused };
