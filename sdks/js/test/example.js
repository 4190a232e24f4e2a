// A plugin for the command's test.

import plugin from '../src/index.js';

plugin.op('example', () => 'hi');
