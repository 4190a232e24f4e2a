"""Publishes with the SDK's hub; listens with the WebSocket client that the SDK includes."""

import json

from skygear import pubsub
from skygear.options import parse_args
from websocket import create_connection

from harness import check
from world import API_KEY, ENDPOINT, unique

HUB = ENDPOINT.rstrip("/").replace("http", "ws", 1) + "/pubsub"


class Listener:
    """Listens to channels; a message of its own shows that it does."""

    def __init__(self, *channels):
        self.socket = create_connection(HUB, header=[f"X-Skygear-API-Key: {API_KEY}"])
        self.socket.settimeout(20)
        for channel in channels:
            self.send({"action": "sub", "channel": channel})
        self.send({"action": "pub", "channel": channels[-1], "data": "probe"})
        assert self.next() == (channels[-1], "probe")

    def send(self, frame):
        self.socket.send(json.dumps(frame))

    def next(self):
        message = json.loads(self.socket.recv())
        return message["channel"], message["data"]


@check("messages: the hub publishes, then hangs up, and nothing is lost")
def _():
    room = unique("room")
    listener = Listener(room)
    hub = pubsub.Hub(end_point=HUB, api_key=API_KEY)
    for number in range(20):
        hub.publish(room, {"n": number, "text": "日本"})
    heard = [listener.next() for _ in range(20)]
    assert sorted(data["n"] for _, data in heard) == list(range(20))
    assert heard[0][1]["text"] == "日本" and heard[0][0] == room


@check("messages: one message to several channels")
def _():
    rooms = [unique("one"), unique("two")]
    listener = Listener(*rooms)
    pubsub.Hub(end_point=HUB, api_key=API_KEY).publish(rooms, {"to": "both"})
    heard = sorted([listener.next(), listener.next()])
    assert heard == sorted((room, {"to": "both"}) for room in rooms)


@check("messages: the hub finds the server by the SDK's options")
def _():
    room = unique("room")
    listener = Listener(room)
    # The SDK's own programs do the same; it reads the environment.
    parse_args()
    pubsub.publish(room, {"by": "options"})
    assert listener.next() == (room, {"by": "options"})
