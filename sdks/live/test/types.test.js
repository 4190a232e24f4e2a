import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import ts from 'typescript';

import * as index from '../src/index.js';

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const OPTIONS = {
  strict: true,
  noEmit: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  // Of the browser: the types must not need node's.
  lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'],
  types: []
};

test('the types are right, and say what can be asked', () => {
  const program = ts.createProgram([path('types.ts')], OPTIONS);
  const found = ts.getPreEmitDiagnostics(program);
  const host = { getCanonicalFileName: (it) => it, getCurrentDirectory: () => '', getNewLine: () => '\n' };
  assert.equal(ts.formatDiagnostics(found, host), '');
});

test('the types declare what there is, and nothing else', () => {
  const declarations = path('../types/index.d.ts');
  const program = ts.createProgram([declarations], OPTIONS);
  const checker = program.getTypeChecker();
  const symbol = checker.getSymbolAtLocation(program.getSourceFile(declarations));
  const exported = checker.getExportsOfModule(symbol).filter((it) => it.flags & ts.SymbolFlags.Value);
  assert.deepEqual(exported.map(({ name }) => name).sort(), Object.keys(index).sort());
  const client = new index.LiveClient({ url: 'http://localhost', WebSocket: class {} });
  const made = {
    LiveClient: client,
    LiveQuery: client.query({ record_type: 'note' }),
    LiveError: new index.LiveError({ code: 1, message: '' })
  };
  for (const { name, members } of exported) {
    const it = made[name];
    const own = Object.keys(it).concat(Object.getOwnPropertyNames(Object.getPrototypeOf(it)));
    const isMember = (it) => it.flags & (ts.SymbolFlags.Property | ts.SymbolFlags.Method | ts.SymbolFlags.Accessor);
    const declared = [...members.values()].filter(isMember).map((member) => member.name);
    const there = own.filter((member) => member !== 'constructor');
    assert.deepEqual(declared.sort(), [...new Set(there)].sort(), name);
  }
});
