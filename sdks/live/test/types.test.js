import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import ts from 'typescript';

import * as index from '../src/index.js';

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const OPTIONS = {
  strict: true,
  noEmit: true,
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2023.d.ts', 'lib.dom.d.ts'],
  types: [],
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
};

test('the types are right, and say what an app may write', () => {
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
  assert.deepEqual(exported.map((it) => it.name), Object.keys(index));
  const client = new index.LiveClient({ url: 'http://app.test', WebSocket: class {} });
  const names = [...Object.getOwnPropertyNames(Object.getPrototypeOf(client)), ...Object.keys(client)];
  const declared = [...exported[0].members.keys()].filter((it) => it !== '__constructor');
  assert.deepEqual(names.filter((it) => it !== 'constructor').sort(), declared.sort());
});

test('the licence is that of the repository', async () => {
  // npm packs no links.
  assert.deepEqual(await readFile(path('../LICENSE')), await readFile(path('../../../LICENSE')));
});
