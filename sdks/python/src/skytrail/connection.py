"""The socket of a worker, and the options for opening it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidURI
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from .session import MAX_MESSAGE, SUBPROTOCOL, Hello

OPEN_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
# Where plugins connect.
PATH = "/_/plugin"


class Socket(Protocol):
    """The part of a WebSocket that a worker needs."""

    async def send(self, text: str, /) -> None: ...

    async def recv(self) -> str | bytes: ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...


Connect = Callable[[], AbstractAsyncContextManager[Socket]]
#: A number counts once, when the process starts; a function is called whenever the worker connects.
Position = int | Callable[[], int | Awaitable[int]]


@dataclass
class Options:
    """How a worker runs."""

    plugin: str
    endpoint: str = "http://127.0.0.1:3000"
    master_key: str = field(default="", repr=False)
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    generation: int = 0
    window: int = 16
    """How many requests are handled at once."""
    max_message: int = MAX_MESSAGE
    """The largest message that is accepted or sent, in bytes; the server has its own limit."""
    position: Position | None = None
    """Where deliveries start, for plugins that store the position together with their effects."""
    drain_seconds: float = 30.0
    """How long running requests may take when the worker stops."""

    def __post_init__(self) -> None:
        try:
            parse_uri(self.url)
        except (InvalidURI, ValueError):
            # The address itself may contain a password.
            message = "SKYGEAR_ENDPOINT (--endpoint) should be http://HOST:PORT or https://HOST"
            raise ValueError(message) from None

    @property
    def url(self) -> str:
        """The address that plugins connect to."""
        return self.endpoint.rstrip("/").replace("http", "ws", 1) + PATH

    @property
    def shown_url(self) -> str:
        """The address that plugins connect to, without a password that it may contain."""
        url = urlsplit(self.url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"

    def endpoint_at(self, location: str) -> str:
        """Returns the endpoint that a redirect names, without what may be secret in its address."""
        try:
            target = urlsplit(urljoin(self.endpoint.rstrip("/") + PATH, location))
        except ValueError:
            return "another address"
        host = target.netloc.rpartition("@")[2]
        return f"{target.scheme}://{host}{target.path.removesuffix(PATH).rstrip('/')}"

    def hello(self) -> Hello:
        return Hello(
            self.plugin,
            self.worker,
            self.generation,
            self.window,
            self.max_message,
        )


class _Connect(connect):
    """Opens a WebSocket; follows no redirect, because the master key would go along."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


@asynccontextmanager
async def open_socket(options: Options) -> AsyncIterator[Socket]:
    """Connects as a plugin, with the master key in a header, and offers the subprotocol."""
    async with _Connect(
        options.url,
        additional_headers={"X-Skygear-API-Key": options.master_key},
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        max_size=options.max_message,
        compression=None,
        open_timeout=OPEN_TIMEOUT,
        close_timeout=CLOSE_TIMEOUT,
        # The protocol has its own heartbeats.
        ping_interval=None,
        proxy=None,
    ) as connection:
        yield connection
