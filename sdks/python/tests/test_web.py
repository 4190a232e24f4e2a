from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from skytrail import Plugin, Request, Response
from skytrail.testing import PluginTester
from skytrail.web import Headers


class Web(unittest.TestCase):
    def test_a_request_travels_and_comes_back(self) -> None:
        headers = Headers({"X-Multi": ["a", "b"], "Content-Type": "text/plain"})
        request = Request("POST", "/foo", "a=1&b=&a=2&c=%20x", headers, b"\x00\xff")
        again = Request.from_wire(request.to_wire())
        self.assertEqual(again.to_wire(), request.to_wire())
        self.assertEqual(again.args, {"a": "1", "b": "", "c": " x"})
        self.assertEqual(again.args.get_all("a"), ["1", "2"])
        self.assertEqual(again.args.get_all("d"), [])
        self.assertEqual(Request("POST", "/", data=b"x=1&x=2").form.get_all("x"), ["1", "2"])
        self.assertEqual(again.headers.get_all("x-multi"), ["a", "b"])
        self.assertEqual(Request.from_wire({"method": "GET", "body": ""}).data, b"")

    def test_bodies_decide_the_content_type_unless_it_is_given(self) -> None:
        for body, expected in (
            ("text", "text/plain; charset=utf-8"),
            (b"bytes", "application/octet-stream"),
            ({"a": 1}, "application/json"),
            (None, "application/json"),
        ):
            self.assertEqual(Response(body).headers["Content-Type"], expected)
        self.assertEqual(
            Response("<p>", content_type="text/html").headers["content-type"], "text/html"
        )
        self.assertEqual(
            Response("a", headers={"content-type": "x/y"}).headers["Content-Type"], "x/y"
        )

    def test_a_status_that_is_none_is_refused(self) -> None:
        for status in (0, 99, 1000):
            with self.assertRaises(ValueError):
                Response("x", status)

    def test_headers_have_no_case_and_may_come_more_than_once(self) -> None:
        headers = Headers()
        headers.add("Set-Cookie", "a")
        headers.add("set-cookie", "b")
        self.assertEqual(headers.to_wire(), {"Set-Cookie": ["a", "b"]})
        headers["SET-COOKIE"] = "c"
        self.assertEqual(headers.get_all("Set-Cookie"), ["c"])
        del headers["set-cookie"]
        self.assertEqual(len(headers), 0)


class Static(unittest.IsolatedAsyncioTestCase):
    async def test_files_are_served_and_nothing_else(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            inside = Path(folder, "inside")
            Path(inside, "css").mkdir(parents=True)
            Path(inside, "css", "a.css").write_text("p {}")
            Path(folder, "secret").write_text("secret")
            Path(inside, "link").symlink_to(Path(folder, "secret"))
            plugin = Plugin("TEST")
            plugin.static_assets("demo")(lambda: inside)
            tester = PluginTester(plugin)
            response = await tester.request("GET", "/static/demo/css/a.css")
            self.assertEqual((response.status, response.text), (200, "p {}"))
            self.assertEqual(response.headers["Content-Type"], "text/css")
            for path in (
                "demo/../secret",
                "demo//etc/passwd",
                "demo/css",
                "demo/link",
                "demo/nothing",
                "demo/\0",
                "demo",
                "demo2/a.css",
                "",
            ):
                response = await tester.request("GET", f"/static/{path}")
                self.assertEqual(response.status, 404, path)

            target = Path(folder, "target")
            plugin.assets.collect(target)
            self.assertEqual(Path(target, "static/demo/css/a.css").read_text(), "p {}")
