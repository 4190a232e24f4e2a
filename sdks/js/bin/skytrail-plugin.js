#!/usr/bin/env node
// Runs a plugin: `skytrail-plugin index.js`. It runs the plugin that the file exports, under any name,
// or the package's own plugin, if the file has registered functions with it.

import { realpathSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

import packagesPlugin from '../src/index.js';
import { hasRun, isPlugin } from '../src/plugin.js';

const USAGE = `usage: skytrail-plugin FILE

Runs a plugin until SIGTERM or SIGINT. Environment: PLUGIN_NAME, SKYGEAR_ENDPOINT, MASTER_KEY,
PLUGIN_WINDOW, PLUGIN_GENERATION, PLUGIN_MAX_MESSAGE, LOG_LEVEL.
`;

const [file, ...rest] = process.argv.slice(2);
if (file === undefined || file.startsWith('-') || rest.length > 0) {
  process.stderr.write(USAGE);
  process.exit(2);
}
const loaded = await import(pathToFileURL(realpathSync(file)));
// A file that calls `run` itself has done all, or is still at it: then it ends as with `node`.
if (!hasRun()) {
  try {
    await find(loaded).run();
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
  // Whatever the file has open.
  process.exit();
}

/**
 * Returns the plugin of a loaded file. The package's own counts only if functions were registered with
 * it: an empty one would run instead of a plugin that the file created and did not export.
 */
function find(exported) {
  const found = new Set(Object.values(exported).filter(isPlugin));
  if (packagesPlugin.points.isEmpty) found.delete(packagesPlugin);
  else found.add(packagesPlugin);
  if (found.size === 0) throw new Error(`${file} registers nothing: export your plugin`);
  if (found.size > 1) throw new Error(`${found.size} plugins: a process can run only one`);
  return [...found][0];
}
