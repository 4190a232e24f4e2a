"""A consumer of Skytrail's log: handles events one by one, for ever."""

import json
import socket as sockets
import time
import urllib.request
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

# How many events can be in flight at once; they belong to different streams.
WINDOW = 16
TIMEOUT = 30


class Refused(Exception):
    """The server rejects this consumer."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes the master key go to the configured address, and nowhere else."""

    def redirect_request(self, *_):
        return None


opener = urllib.request.build_opener(NoRedirects)


def call(url, key, action, **body):
    """Calls an action with the master key and returns its result."""
    request = urllib.request.Request(
        f"{url}/{action.replace(':', '/')}",
        data=json.dumps(body).encode(),
        headers={"X-Skygear-API-Key": key, "Content-Type": "application/json"},
    )
    with opener.open(request, timeout=TIMEOUT) as answer:
        return json.load(answer).get("result")


def consume(url, key, consumer, handle, tidy):
    """Passes every event to `handle`, and acknowledges it when `handle` returns.

    `handle` gets the event and a function to call now and then if it takes long. An event that fails
    is retried with growing delays, and finally parked. When the connection is lost, this reconnects,
    and events that were not acknowledged arrive again. `tidy` is called after each event, and at
    least once a second.
    """
    while True:
        try:
            with open_socket(url, key) as socket:
                hello = {"type": "consume", "consumer": consumer, "window": WINDOW}
                socket.send(json.dumps(hello))
                while True:
                    try:
                        react(socket, json.loads(socket.recv(timeout=1)), handle)
                    except TimeoutError:
                        pass
                    tidy()
        except InvalidStatus as refused:
            if refused.response.status_code < 500:
                raise
        except (ConnectionClosed, InvalidHandshake, OSError):
            pass
        time.sleep(1)


def open_socket(url, key):
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    # With a socket of ours, no version of `websockets` follows a redirect, with the key, elsewhere.
    return connect(
        url.replace("http", "ws", 1) + "/log",
        sock=sockets.create_connection((parts.hostname, port), timeout=TIMEOUT),
        additional_headers={"X-Skygear-API-Key": key},
        # An event can be as large as a record.
        max_size=None,
    )


def react(socket, message, handle):
    if message["type"] == "error":
        raise Refused(message["error"]["message"])
    if message["type"] != "event":
        return
    event = message["event"]
    answer = {"type": "ack", "position": event["position"]}
    extend = {"type": "extend", "position": event["position"]}
    try:
        handle(event, lambda: socket.send(json.dumps(extend)))
    except Exception as error:  # whatever went wrong, the event is not done
        answer.update(type="retry", message=repr(error))
    socket.send(json.dumps(answer))
