"""A consumer of Skytrail's log: handles events one by one, for ever."""

import json
import time
import urllib.request

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

# How many events can be in flight at once; they belong to different streams.
WINDOW = 16


class Refused(Exception):
    """The server rejects this consumer."""


def call(url, key, action, **body):
    """Calls an action with the master key and returns its result."""
    request = urllib.request.Request(
        f"{url}/{action.replace(':', '/')}",
        data=json.dumps(body).encode(),
        headers={"X-Skygear-API-Key": key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer).get("result")


def consume(url, key, consumer, handle):
    """Passes every event to `handle`, and acknowledges it when `handle` returns.

    An event that fails is retried with growing delays, and finally parked. When the connection is
    lost, this reconnects, and events that were not acknowledged arrive again.
    """
    address = url.replace("http", "ws", 1) + "/log"
    while True:
        try:
            # An event can be as large as a record.
            headers = {"X-Skygear-API-Key": key}
            with connect(address, additional_headers=headers, max_size=None) as socket:
                hello = {"type": "consume", "consumer": consumer, "window": WINDOW}
                socket.send(json.dumps(hello))
                for text in socket:
                    answer = react(json.loads(text), handle)
                    if answer:
                        socket.send(json.dumps(answer))
        except InvalidStatus as refused:
            if refused.response.status_code < 500:
                raise
        except (ConnectionClosed, InvalidHandshake, OSError):
            pass
        time.sleep(1)


def react(message, handle):
    if message["type"] == "error":
        raise Refused(message["error"]["message"])
    if message["type"] != "event":
        return None
    event = message["event"]
    answer = {"type": "ack", "position": event["position"]}
    try:
        handle(event)
    except Exception as error:  # whatever went wrong, the event is not done
        answer.update(type="retry", message=repr(error))
    return answer
