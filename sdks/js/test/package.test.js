import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import ts from 'typescript';

const path = (name) => fileURLToPath(new URL(name, import.meta.url));

test('the licence is that of the repository', async () => {
  // npm packs no links.
  assert.deepEqual(await readFile(path('../LICENSE')), await readFile(path('../../../LICENSE')));
});

test('every module has types, however TypeScript looks for them', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'types-'));
  t.after(() => rm(folder, { recursive: true }));
  await mkdir(join(folder, 'node_modules'));
  await symlink(path('..'), join(folder, 'node_modules', 'skytrail-plugin'));
  const { Node10, Node16, NodeNext, Bundler } = ts.ModuleResolutionKind;
  for (const moduleResolution of [Node10, Node16, NodeNext, Bundler]) {
    for (const [name, file] of [['', 'index'], ['/testing', 'testing']]) {
      const from = join(folder, 'plugin.mts');
      const module = `skytrail-plugin${name}`;
      const { resolvedModule } = ts.resolveModuleName(module, from, { moduleResolution }, ts.sys);
      const expected = path(`../types/${file}.d.ts`);
      const how = ts.ModuleResolutionKind[moduleResolution];
      assert.equal(resolvedModule?.resolvedFileName, expected, how);
    }
  }
});
