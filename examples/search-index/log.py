"""A consumer of Skytrail's log: events one after the other, for ever."""

import json
import time
import urllib.request

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

# Several may be under way; they are of different streams.
WINDOW = 16


class Refused(Exception):
    """The server does not want this."""


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
    """Hands every event to `handle`, and acknowledges it when that returns.

    One that fails is tried again later, with growing pauses, and in the end parked. Comes again
    when the connection is lost; what was not acknowledged comes again, too.
    """
    address = url.replace("http", "ws", 1) + "/log"
    while True:
        try:
            # An event may be as large as a record.
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
    except Exception as error:  # whatever it is, the event is not done
        answer.update(type="retry", message=repr(error))
    return answer
