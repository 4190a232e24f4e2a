#!/usr/bin/env node
// Runs a plugin: `skytrail-plugin index.js`. The file's default export, or its export `plugin`, or
// else the package's own plugin, whose functions the file has registered.

import { realpathSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

import packagesPlugin, { Plugin } from '../src/index.js';

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
const found = [loaded.default, loaded.plugin].find((it) => it instanceof Plugin);
try {
  await (found ?? packagesPlugin).run();
} catch (error) {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
// Whatever the file has open.
process.exit();
