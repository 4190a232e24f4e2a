"""A plugin that pushes, in Python; `plugin.mjs` is the same in JavaScript."""

from skytrail import Plugin

plugin = Plugin("PUSHER")
NOTIFICATION = {"apns": {"aps": {"alert": "hello"}}, "apns_headers": {"apns-collapse-id": "one"}}


@plugin.op("push:to_user")
async def to_user(user):
    await plugin.api.push_to_users([user], NOTIFICATION)


@plugin.op("push:to_devices")
async def to_devices(*devices):
    return await plugin.api.push_to_devices(devices, NOTIFICATION, topic="com.example.notes")


@plugin.op("push:blocking")
def blocking(device):
    return plugin.api.blocking.push_to_devices([device], NOTIFICATION)


plugin.run()
