from __future__ import annotations

import asyncio
import unittest
from contextlib import AsyncExitStack

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from skytrail import Plugin
from skytrail.backoff import Ending
from skytrail.connection import Options
from skytrail.worker import Worker

from .stand_in import PATIENCE


async def accept(connection: ServerConnection) -> None:
    await connection.wait_closed()


def port_of(server: Server) -> int:
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


async def ending_of(options: Options) -> Ending:
    """Returns how the first connection of a worker ends."""
    worker = Worker(Plugin("TEST"), options)
    ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def pause(ending: Ending) -> float:
        ended.set_result(ending)
        return 60.0

    worker._backoff.pause = pause  # type: ignore[method-assign]
    serving = asyncio.create_task(worker.serve())
    try:
        await asyncio.wait({ended, serving}, timeout=PATIENCE, return_when="FIRST_COMPLETED")
        if serving.done():
            serving.result()
        return ended.result()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


class Redirects(unittest.IsolatedAsyncioTestCase):
    async def test_the_key_does_not_follow_a_redirect(self) -> None:
        keys: list[str | None] = []
        location = ""

        def elsewhere(connection: ServerConnection, request: Request) -> None:
            keys.append(request.headers.get("X-Skygear-API-Key"))

        def redirect(connection: ServerConnection, request: Request) -> Response:
            response = connection.respond(302, "")
            response.headers["Location"] = location
            return response

        async with AsyncExitStack() as stack:
            there = await stack.enter_async_context(
                serve(accept, "127.0.0.1", 0, process_request=elsewhere)
            )
            here = await stack.enter_async_context(
                serve(accept, "127.0.0.1", 0, process_request=redirect)
            )
            address = f"127.0.0.1:{port_of(there)}"
            endpoint = f"http://127.0.0.1:{port_of(here)}"
            for location, shown in (
                (f"ws://{address}/_/plugin", f"ws://{address}"),
                (f"http://{address}/_/plugin", f"http://{address}"),
                (f"https://ada:secret@{address}/app/_/plugin?t=secret", f"https://{address}/app"),
                ("/app/_/plugin", f"{endpoint}/app"),
                ("http://[", "another address"),
            ):
                options = Options("TEST", endpoint=endpoint, master_key="secret-key")
                ending = await ending_of(options)
                self.assertEqual(ending.status, 302)
                self.assertIn(f"redirects to {shown}: use that", ending.reason)
                self.assertNotIn("secret", ending.reason)
        self.assertEqual(keys, [])


class Passwords(unittest.IsolatedAsyncioTestCase):
    async def test_a_password_in_an_address_is_not_shown(self) -> None:
        endpoint = "http://ada:a-secret@127.0.0.1:1/app"
        ending = await ending_of(Options("TEST", endpoint=endpoint, master_key="secret-key"))
        self.assertIn("no connection to ws://127.0.0.1:1/app/_/plugin", ending.reason)
        self.assertNotIn("secret", ending.reason)


class Addresses(unittest.TestCase):
    def test_what_is_no_address_of_a_server_is_refused_at_once(self) -> None:
        for endpoint in ("localhost:3000", "ftp://localhost", "http://", "http://localhost:x"):
            with self.assertRaisesRegex(ValueError, r"SKYGEAR_ENDPOINT .*http://"):
                Plugin("TEST", endpoint=endpoint).options()
        for endpoint in ("http://localhost", "https://example.com/app/", "ws://[::1]:3000"):
            self.assertEqual(Plugin("TEST", endpoint=endpoint).options().endpoint, endpoint)
