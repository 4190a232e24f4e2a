// A plugin that pushes, in JavaScript; `plugin.py` is the same in Python.

import { Plugin } from '../../sdks/js/src/index.js';

const plugin = new Plugin('PUSHER');
const notification = {
  apns: { aps: { alert: 'hello' } },
  apns_headers: { 'apns-collapse-id': 'one' },
};

plugin.op('push:to_user', ({ args: [user] }, { api }) => api.pushToUsers(user, notification));

plugin.op('push:to_devices', ({ args }, { api }) =>
  api.pushToDevices(args, notification, { topic: 'com.example.notes' })
);

plugin.op('push:blocking', ({ args: [device] }, { api }) => api.pushToDevices(device, notification));

await plugin.run();
