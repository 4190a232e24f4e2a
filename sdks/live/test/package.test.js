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

test('it needs no other package, and nothing of node', async () => {
  assert.equal(JSON.parse(await readFile(path('../package.json'))).dependencies, undefined);
  const { fileNames } = ts.parseJsonConfigFileContent({ compilerOptions: { allowJs: true } }, ts.sys, path('../src'));
  assert(fileNames.length > 3);
  for (const file of fileNames) {
    const imported = ts.preProcessFile(await readFile(file, 'utf8')).importedFiles;
    for (const { fileName } of imported) assert.match(fileName, /^\.\/\w+\.js$/, file);
  }
});

test('it has types, however TypeScript looks for them', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'types-'));
  t.after(() => rm(folder, { recursive: true }));
  await mkdir(join(folder, 'node_modules'));
  await symlink(path('..'), join(folder, 'node_modules', 'skytrail-live'));
  const { Node10, Node16, NodeNext, Bundler } = ts.ModuleResolutionKind;
  for (const moduleResolution of [Node10, Node16, NodeNext, Bundler]) {
    const from = join(folder, 'page.mts');
    const { resolvedModule } = ts.resolveModuleName('skytrail-live', from, { moduleResolution }, ts.sys);
    const how = ts.ModuleResolutionKind[moduleResolution];
    assert.equal(resolvedModule?.resolvedFileName, path('../types/index.d.ts'), how);
  }
});
