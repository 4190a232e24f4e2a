import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';

import ts from 'typescript';

import * as index from '../src/index.js';
import * as testing from '../src/testing.js';

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const OPTIONS = {
  strict: true,
  noEmit: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  types: ['node']
};

test('the types are right, and say what a plugin may write', () => {
  const program = ts.createProgram([path('types.ts')], OPTIONS);
  const found = ts.getPreEmitDiagnostics(program);
  const host = { getCanonicalFileName: (it) => it, getCurrentDirectory: () => '', getNewLine: () => '\n' };
  assert.equal(ts.formatDiagnostics(found, host), '');
});

for (const [file, module] of [['index', index], ['testing', testing]]) {
  test(`types/${file}.d.ts declares what there is, and nothing else`, () => {
    const declarations = path(`../types/${file}.d.ts`);
    const program = ts.createProgram([declarations], OPTIONS);
    const checker = program.getTypeChecker();
    const symbol = checker.getSymbolAtLocation(program.getSourceFile(declarations));
    const exported = checker
      .getExportsOfModule(symbol)
      .map((it) => [it.name, it.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(it) : it])
      .filter(([, it]) => it.flags & ts.SymbolFlags.Value);
    assert.deepEqual(exported.map(([name]) => name).sort(), Object.keys(module).sort());
    for (const [name, its] of exported) checkMembers(name, its, module[name]);
  });
}

/** Checks that every declared method and accessor of a class exists. */
function checkMembers(name, symbol, value) {
  for (const member of symbol.members?.values() ?? []) {
    if (!(member.flags & ts.SymbolFlags.Method)) continue;
    assert.equal(typeof value.prototype[member.name], 'function', `${name}.${member.name}`);
  }
  if (typeof value !== 'function') return;
  const declared = new Set([...symbol.members.keys(), 'constructor']);
  const there = Object.getOwnPropertyNames(value.prototype);
  const missing = there.filter((it) => !declared.has(it) && !INTERNAL.has(`${name}.${it}`));
  assert.deepEqual(missing, [], `${name}: not declared`);
}

/** Members that only other parts of the package use. */
const INTERNAL = new Set([
  'Plugin.answer',
  'Plugin.connectTo',
  'Plugin.settings',
  'HandlerRequest.toWire',
  'HttpHeaders.toWire',
  'SkygearResponse.toWire'
]);
