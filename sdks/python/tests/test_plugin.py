from __future__ import annotations

import asyncio
import logging
import unittest
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest.mock import patch

from skytrail import (
    ApiError,
    AuthProvider,
    Change,
    Delivery,
    Drop,
    InvalidArgument,
    Location,
    Plugin,
    Record,
    Reference,
    Request,
    Response,
    RetryAfter,
    SkygearException,
    current_context,
    field,
    progress,
)
from skytrail.plugin import log_level
from skytrail.testing import PluginTester

NOON = datetime(2024, 6, 11, 12, tzinfo=timezone.utc)


class Points(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.plugin = Plugin("TEST")
        self.tester = PluginTester(self.plugin)

    async def fails(self, answering: Any) -> ApiError:
        with self.assertRaises(ApiError) as raised:
            await answering
        return raised.exception

    async def test_registration_is_what_the_server_reads(self) -> None:
        plugin = self.plugin

        @plugin.op("a:b", key_required=True, user_required=True, timeout=1.5, idempotent=True)
        def op() -> None: ...

        @plugin.handler("foo/", method=["get", "POST"])
        def handle(request: Request) -> None: ...

        @plugin.before_save("note", async_=True)
        def check(record: Record) -> None: ...

        @plugin.after_delete("note", name="gone", catch_up="latest")
        def gone(record: Record) -> None: ...

        @plugin.every(timedelta(minutes=1.5), name="tick")
        @plugin.every(90, name="tock")
        @plugin.every("@hourly", name="hourly")
        @plugin.every("@daily", name="daily", time_zone="Europe/Berlin", overlap=True)
        def tick() -> None: ...

        @plugin.provides("auth", "acme")
        class Acme(AuthProvider): ...

        @plugin.event("init")
        def init(config: Any) -> None:
            @plugin.op("late")
            def late() -> None: ...

        points = await self.tester.start()
        free = {"key_required": False, "user_required": False}
        self.assertEqual(
            points["op"],
            [
                {
                    "name": "a:b",
                    "key_required": True,
                    "user_required": True,
                    "timeout_ms": 1500,
                    "idempotent": True,
                },
                {"name": "late", **free},
            ],
        )
        self.assertEqual(points["handler"], [{"name": "foo/", "methods": ["GET", "POST"], **free}])
        test = type(self).__qualname__ + ".test_registration_is_what_the_server_reads"
        self.assertEqual(
            points["hook"],
            [
                {
                    "name": f"note.beforeSave.{test}.check",
                    "type": "note",
                    "trigger": "beforeSave",
                    "async": True,
                },
                {
                    "name": "gone",
                    "type": "note",
                    "trigger": "afterDelete",
                    "async": False,
                    "catch_up": "latest",
                },
            ],
        )
        timers = {timer.pop("name"): timer for timer in points["timer"]}
        daily = {"spec": "@daily", "time_zone": "Europe/Berlin", "overlap": "allow"}
        self.assertEqual(timers.pop("daily"), daily)
        specs = {name: timer["spec"] for name, timer in timers.items()}
        self.assertEqual(specs, {"hourly": "@hourly", "tock": "@every 90s", "tick": "@every 90s"})
        self.assertEqual(points["provider"], [{"type": "auth", "id": "acme", "name": "acme"}])
        self.assertEqual(points["event"], [{"name": "init"}])

    async def test_lambdas_take_lists_and_names_and_typed_values(self) -> None:
        @self.plugin.op("echo")
        async def echo(*args: Any, **kwargs: Any) -> Any:
            return {"args": list(args), "kwargs": kwargs, "user": current_context().get("user_id")}

        self.assertEqual(
            await self.tester.lambda_("echo", NOON, [Location(1, 2)], user_id="u1"),
            {"args": [NOON, [Location(1, 2)]], "kwargs": {}, "user": "u1"},
        )
        answer = await self.tester.lambda_("echo", who=Reference.to("user/1"))
        self.assertEqual(answer["kwargs"], {"who": Reference.to("user/1")})
        self.assertEqual((await self.tester.lambda_("echo"))["args"], [])

    async def test_wrong_arguments_are_the_clients_fault(self) -> None:
        @self.plugin.op("greet")
        def greet(who: str) -> str:
            return who

        error = await self.fails(self.tester.lambda_("greet"))
        self.assertEqual((error.code, error.message), (108, "missing a required argument: 'who'"))
        error = await self.fails(self.tester.ask("op", "greet", {"args": None}))
        self.assertEqual((error.code, error.info), (108, {"arguments": ["args"]}))

    async def test_arguments_may_have_any_name(self) -> None:
        names = dict.fromkeys(("self", "threads", "function", "name", "args", "kwargs"), 1)

        @self.plugin.op("greet")
        def greet(who: str) -> str:
            return who

        @self.plugin.op("echo")
        def echo(**named: Any) -> Any:
            return named

        @self.plugin.op("echo_async")
        async def echo_async(**named: Any) -> Any:
            return named

        error = await self.fails(self.tester.ask("op", "greet", {"args": names}))
        self.assertEqual((error.code, error.info), (108, {"arguments": ["args"]}))
        for name in ("echo", "echo_async"):
            self.assertEqual(await self.tester.ask("op", name, {"args": names}), names)

    async def test_what_is_not_there_is_said_to_be_not_there(self) -> None:
        for kind, param in (
            ("op", {}),
            ("timer", None),
            ("hook", {}),
            ("provider", {}),
            ("handler", {"method": "GET"}),
            ("dance", None),
        ):
            error = await self.fails(self.tester.ask(kind, "nowhere", param))
            self.assertEqual(error.code, 117, kind)

    async def test_a_before_hook_changes_returns_or_refuses(self) -> None:
        @self.plugin.before_save("note")
        async def number(record: Record, original: Record | None) -> None:
            record["revision"] = 1 if original is None else original["revision"] + 1

        @self.plugin.before_save("note")
        def check(record: Record) -> Record:
            if not record.get("title"):
                message = "a title is needed"
                raise SkygearException(message, InvalidArgument, {"arguments": ["title"]})
            return Record(record.id, {**record, "title": record["title"].strip()})

        saved = await self.tester.before_save(Record("note/1", title=" hi ", at=NOON))
        self.assertEqual(dict(saved), {"title": "hi", "at": NOON, "revision": 1})
        again = await self.tester.before_save(Record("note/1", title="x"), saved)
        self.assertEqual(again["revision"], 2)
        error = await self.fails(self.tester.before_save(Record("note/1")))
        self.assertEqual((error.code, error.info), (108, {"arguments": ["title"]}))

    async def test_what_is_no_record_is_not_taken_for_one(self) -> None:
        @self.plugin.before_save("note")
        def wrong(record: Record) -> Any:
            return {"title": "a dict"}

        error = await self.fails(self.tester.before_save(Record("note/1")))
        self.assertIn("returns the record or nothing", error.message)

    async def test_an_after_hook_is_told_of_its_delivery(self) -> None:
        seen: list[Delivery] = []

        @self.plugin.after_save("note")
        def saved(record: Record, original: Record | None, delivery: Delivery) -> str:
            progress()
            seen.append(delivery)
            return "what it returns is of no interest"

        delivery = Delivery("7/x", 7, attempt=3, at="2024-06-11T09:30:00Z", catching_up=True)
        await self.tester.after_save(Record("note/1"), delivery=delivery)
        self.assertEqual(seen, [delivery])
        self.assertEqual(self.tester.num_progress, 1)

    async def test_an_after_hook_says_what_is_to_become_of_its_event(self) -> None:
        errors: list[Exception] = [Drop("hopeless"), RetryAfter(1.5)]

        @self.plugin.after_delete("note")
        async def deleted(record: Record) -> None:
            raise errors.pop(0)

        error = await self.fails(self.tester.after_delete(Record("note/1")))
        self.assertEqual((error.message, error.info), ("hopeless", {"drop": True}))
        error = await self.fails(self.tester.after_delete(Record("note/1")))
        self.assertEqual((error.code, error.message), (10000, "not now"))
        self.assertEqual(error.info, {"retry_after_ms": 1500})

    async def test_handlers_answer_text_json_and_bytes(self) -> None:
        @self.plugin.handler("demo/hello", method="GET")
        def hello(request: Request) -> str:
            return "hello " + request.args.get("name", "nobody")

        @self.plugin.handler("demo/hello", method="POST")
        async def post(request: Request) -> Response:
            headers = {"X-Path": request.path, "Set-Cookie": ["a=1", "b=2"]}
            return Response(b"\x00\xff" + request.get_data(), 201, headers)

        @self.plugin.handler("demo/tree/")
        def tree(request: Request) -> Any:
            return {
                "query": request.query_string,
                "path": request.path,
                "at": NOON,
                "type": request.headers["content-TYPE"],
            }

        response = await self.tester.request("GET", "/demo/hello?name=ada")
        self.assertEqual((response.status, response.text), (200, "hello ada"))
        self.assertEqual(response.headers["content-type"], "text/plain; charset=utf-8")
        response = await self.tester.request("POST", "/demo/hello", b"\xfe")
        self.assertEqual((response.status, response.data), (201, b"\x00\xff\xfe"))
        self.assertEqual(response.headers.get_all("set-cookie"), ["a=1", "b=2"])
        headers = {"Content-Type": "text/x"}
        response = await self.tester.request("GET", "/demo/tree/a%20b?x=1", headers=headers)
        self.assertEqual(response.headers["Content-Type"], "application/json")
        self.assertEqual(response.json()["path"], "/demo/tree/a b")
        self.assertEqual(response.json()["query"], "x=1")
        self.assertEqual(response.json()["type"], "text/x")
        error = await self.fails(self.tester.request("PUT", "/demo/hello"))
        self.assertEqual(error.status, 404)

    async def test_timers_and_events_run(self) -> None:
        seen: list[Any] = []

        @self.plugin.every("@hourly")
        async def tick() -> None:
            seen.append("tick")

        @self.plugin.event("before-plugins-ready")
        def ready(config: Any) -> None:
            seen.append(config["app"]["name"])

        @self.plugin.event("schema-changed")
        def schema(**types: Any) -> None:
            seen.append(sorted(types))

        @self.plugin.event("server-ready")
        def bare() -> None:
            seen.append("ready")

        await self.tester.start()
        await self.tester.event("schema-changed", {"note": {"fields": []}, "user": {"fields": []}})
        (name,) = self.plugin.points.timers
        await self.tester.run_timer(name)
        self.assertEqual(seen, ["test", "ready", ["note", "user"], "tick"])

    async def test_providers_say_who_it_is_in_the_form_that_is_wanted(self) -> None:
        @self.plugin.provides("auth", "acme")
        class Acme(AuthProvider):
            async def login(self, auth_data: Any) -> Any:
                if auth_data["pin"] == "odd":
                    return {"principal": auth_data["name"]}
                if auth_data["pin"] != "1234":
                    raise SkygearException("wrong pin", 105)
                return {"principal_id": auth_data["name"], "auth_data": {"at": NOON}}

        known = await self.tester.login("acme", {"name": "ada", "pin": "1234"})
        self.assertEqual(known["principal_id"], "ada")
        self.assertEqual((await self.fails(self.tester.login("acme", {"pin": "1"}))).code, 105)
        error = await self.fails(self.tester.login("acme", {"name": "ada", "pin": "odd"}))
        self.assertIn("principal_id", error.message)
        info = await self.tester.provider("acme", "info", {"x": 1})
        self.assertEqual(info, {"auth_data": {"x": 1}})
        error = await self.fails(self.tester.provider("acme", "__init__", {}))
        self.assertEqual(error.code, 111)

    def test_mistakes_are_told_where_they_are_made(self) -> None:
        plugin = self.plugin
        plugin.op("twice")(lambda: None)
        cases: list[tuple[Any, str]] = [
            (lambda: plugin.op("twice")(lambda: None), "already"),
            (lambda: plugin.before_save("n")(lambda record, original, db: None), "no database"),
            (lambda: plugin.before_save("n")(lambda: None), "takes"),
            (lambda: plugin.before_save("n")(lambda a, b, c: None), "takes"),
            (lambda: plugin.provides("storage", "x"), "kind 'auth'"),
            (lambda: plugin.every(0.1)(lambda: None), "once a second"),
            (lambda: plugin.op("x", timeout=0)(lambda: None), "timeout"),
        ]
        for mistake, message in cases:
            with self.assertRaisesRegex((ValueError, TypeError), message):
                mistake()

    def test_the_name_of_a_plugin_is_asked_for(self) -> None:
        with self.assertRaisesRegex(ValueError, "PLUGIN_NAME"):
            Plugin().options()


class Settings(unittest.TestCase):
    def test_how_large_a_message_may_be_is_given_or_of_the_environment(self) -> None:
        self.assertEqual(Plugin("P").options().max_message, 8 << 20)
        with patch.dict("os.environ", PLUGIN_MAX_MESSAGE="33554432"):
            self.assertEqual(Plugin("P").options().hello().max_message, 32 << 20)
            self.assertEqual(Plugin("P", max_message=1 << 20).options().max_message, 1 << 20)

    def test_an_empty_setting_is_none(self) -> None:
        names = ["SKYGEAR_ENDPOINT", "MASTER_KEY", "PLUGIN_WINDOW", "PLUGIN_GENERATION"]
        expected = Plugin("P").options()
        empty = dict.fromkeys([*names, "PLUGIN_MAX_MESSAGE"], "")
        with patch.dict("os.environ", empty):
            self.assertEqual(Plugin("P").options(), expected)
        self.assertEqual(log_level("", "LOG_LEVEL"), log_level("info", "LOG_LEVEL"))

    def test_what_running_requests_may_take_at_the_end_is_a_setting(self) -> None:
        self.assertEqual(Plugin("P").options().drain_seconds, 30.0)
        self.assertEqual(Plugin("P", drain_seconds=0).options().drain_seconds, 0)
        for wrong in (-1, float("nan"), float("inf")):
            with self.assertRaisesRegex(ValueError, f"^drain_seconds should be .*, not {wrong}"):
                Plugin("P", drain_seconds=wrong).options()

    def test_a_builtin_without_a_signature_is_refused_by_its_name(self) -> None:
        with self.assertRaisesRegex(TypeError, "^max has no signature .* `def`"):
            Plugin("P").op("a")(max)

    def test_a_setting_that_means_nothing_is_refused_by_its_name(self) -> None:
        for name, value in (
            ("PLUGIN_WINDOW", "0"),
            ("PLUGIN_WINDOW", "many"),
            ("PLUGIN_GENERATION", "-1"),
            ("PLUGIN_MAX_MESSAGE", "1023"),
        ):
            wrong = f"^{name} should be a whole number of at least .*, not {value}$"
            with patch.dict("os.environ", {name: value}), self.assertRaisesRegex(ValueError, wrong):
                Plugin("P").options()
        with self.assertRaisesRegex(ValueError, "^window should be .* at least 1, not 0"):
            Plugin("P", window=0).options()
        with self.assertRaisesRegex(ValueError, "^max_message should be .* at least 1024"):
            Plugin("P", max_message=10).options()
        for text in ("loud", "loud,skytrail=debug", "info,loud"):
            refused = f"^LOG_LEVEL should be DEBUG, .*, not {text}$"
            with self.assertRaisesRegex(ValueError, refused):
                log_level(text, "LOG_LEVEL")

    def test_of_the_servers_filters_the_level_counts_that_is_for_everything(self) -> None:
        for text, level in (
            ("warn,skytrail::http=debug", logging.WARNING),
            ("skytrail::http=debug, Error", logging.ERROR),
            ("skytrail::http=debug", logging.INFO),
            ("skytrail::http,sqlx=off", logging.INFO),
            ("[request{user=ada}]=debug,off", logging.CRITICAL + 1),
            (",", logging.INFO),
            ("info,debug", logging.DEBUG),
        ):
            self.assertEqual(log_level(text, "LOG_LEVEL"), level, text)


class ApiCalls(unittest.IsolatedAsyncioTestCase):
    """What the API sends and reads, when a lambda uses it as a plugin does."""

    def setUp(self) -> None:
        self.plugin = Plugin("TEST")
        self.tester = PluginTester(self.plugin)
        self.api = self.plugin.api

    async def asyncSetUp(self) -> None:
        self.plugin.connect_to(self.tester)

    async def test_nobody_has_no_name_to_act_in(self) -> None:
        nobodies: list[Any] = [None, ""]
        for nobody in nobodies:
            for api in (self.api, self.api.blocking):
                with self.assertRaisesRegex(ValueError, "as_user needs a user's id"):
                    api.as_user(nobody)

    async def test_calls_can_have_only_the_rights_of_a_user(self) -> None:
        self.tester.on_action("record:query", [])
        self.tester.on_action("any", None)
        await self.api.with_rights_of("u1").query("note")
        await asyncio.to_thread(self.api.blocking.with_rights_of("u1").send_action, "any")
        await self.api.with_rights_of("u1").as_user("u2").send_action("any")
        sent = [(call["_user_id"], call.get("_rights")) for call in self.tester.calls]
        self.assertEqual(sent, [("u1", "user"), ("u1", "user"), ("u2", None)])
        nobodies: list[Any] = [None, ""]
        for nobody in nobodies:
            for api in (self.api, self.api.blocking):
                with self.assertRaisesRegex(ValueError, "with_rights_of needs a user's id"):
                    api.with_rights_of(nobody)

    async def test_records_are_saved_and_failures_raised(self) -> None:
        self.tester.on_action("record:save", lambda payload: payload["records"])
        room = Record("room/1", name="r", at=NOON)
        saved = await self.api.as_user("u1").save(room)
        self.assertEqual((saved.id, dict(saved)), (room.id, dict(room)))
        self.assertEqual(self.tester.calls[0]["_user_id"], "u1")
        self.assertEqual(self.tester.calls[0]["records"][0]["at"], NOON)

        refusal = SkygearException("no", 102)
        self.tester.on_action("record:save", [Record("a/1"), refusal])
        slots = await self.api.save_many([Record("a/1"), Record("a/2")], atomic=False)
        self.assertIsInstance(slots[0], Record)
        self.assertIsInstance(slots[1], ApiError)
        self.tester.on_action("record:save", [refusal])
        with self.assertRaisesRegex(ApiError, "no"):
            await self.api.save(room)

    async def test_saves_say_what_they_require(self) -> None:
        self.tester.on_action("record:save", lambda payload: payload["records"])
        await self.api.save(Record("room/1", name="r"))
        plain = self.tester.calls[-1]
        self.assertEqual((plain["keep_access"], plain["atomic"]), (True, False))
        self.assertTrue({"if", "create_only"}.isdisjoint(plain))
        self.assertNotIn("_access", plain["records"][0])

        closed = Record("room/1", name="r")
        closed.acl = []
        await self.api.save(closed, if_=field("seen") < NOON)
        call = self.tester.calls[-1]
        self.assertEqual((call["if"][0], call["if"][2]), ("lt", NOON))
        self.assertEqual(call["records"][0]["_access"], [])
        await self.api.save(closed, if_=[])
        self.assertEqual(self.tester.calls[-1]["if"], [])
        await self.api.save_many([closed], create_only=True, atomic=True)
        call = self.tester.calls[-1]
        self.assertEqual((call["create_only"], call["keep_access"]), (True, True))

    async def test_queries_say_what_they_want(self) -> None:
        self.tester.on_action("record:query", [Record("note/1", title="hi")])
        condition = (field("room") == Reference.to("room/1")) & ~field("title").like("%spam%")
        found = await self.api.query(
            "note", condition, sort=[field("_created_at").descending], limit=5, count=True
        )
        self.assertEqual([dict(note) for note in found], [{"title": "hi"}])
        call = self.tester.calls[0]
        self.assertEqual((call["record_type"], call["limit"], call["count"]), ("note", 5, True))
        self.assertEqual(call["predicate"][0], "and")
        self.assertEqual(call["predicate"][1][2], Reference.to("room/1"))

    async def test_a_history_is_read_page_by_page(self) -> None:
        def page(payload: dict[str, Any]) -> dict[str, Any]:
            number = 3 if "until" not in payload else payload["until"]
            version = {
                "position": number * 10,
                "version": number,
                "kind": "record.changed",
                "time": "2024-01-01T00:00:00Z",
                "actor": {"user": "u1", "key": "client", "origin": "api"},
                "request_id": None,
                "hooks": [],
                "record": None if number == 3 else {"_id": "note/1", "n": number},
                "changes": {"n": {"after": number}},
            }
            return {"versions": [version], "next": number - 1 if number > 1 else None}

        self.tester.on_action("history:list", page)
        versions = [version async for version in self.api.history("note/1", after=NOON, page=1)]
        self.assertEqual([version.version for version in versions], [3, 2, 1])
        self.assertIsNone(versions[0].record)
        self.assertEqual((versions[1].record or {})["n"], 2)
        self.assertEqual(versions[1].changes["n"], Change(None, 2))
        self.assertEqual([call["limit"] for call in self.tester.calls], [1, 1, 1])
        self.assertTrue(all(isinstance(call["after"], str) for call in self.tester.calls))
        self.tester.on_action("history:restore", {"_id": "note/1", "n": 2})
        restored = await self.api.restore("note/1", versions[1])
        self.assertEqual((restored["n"], self.tester.calls[-1]["as_of"]), (2, 20))

    async def test_the_past_is_asked_for_by_moment(self) -> None:
        self.tester.on_action("record:fetch", [Record("note/1", n=1)])
        self.tester.on_action("record:query", [Record("note/1", n=1)])
        await self.api.fetch("note/1", as_of=7)
        await self.api.query("note", as_of=NOON)
        await self.api.query("note")
        moments = [call.get("as_of") for call in self.tester.calls]
        self.assertEqual((moments[0], moments[2]), (7, None))
        self.assertTrue(str(moments[1]).endswith("Z"))

    async def test_conditions_are_not_taken_for_truths(self) -> None:
        with self.assertRaisesRegex(TypeError, "&"):
            bool(field("a") == 1 and field("b") == 2)

    async def test_other_actions(self) -> None:
        self.tester.on_action("record:fetch", [Record("note/1")])
        self.tester.on_action("record:delete", [{"_type": "error", "code": 110, "message": "x"}])
        self.tester.on_action("other:lambda", lambda payload: payload.get("args"))
        self.assertEqual((await self.api.fetch("note/1")).id.key, "1")
        with self.assertRaises(ApiError) as raised:
            await self.api.delete(Record("note/2"))
        self.assertEqual(raised.exception.code, 110)
        self.assertEqual(self.tester.calls[1]["ids"], ["note/2"])
        self.assertEqual(await self.api.lambda_("other:lambda", 1, 2), [1, 2])
        self.assertEqual(await self.api.lambda_("other:lambda", a=1), {"a": 1})
        named = {"self": 1, "name": 2}
        self.assertEqual(await self.api.lambda_("other:lambda", **named), named)
        self.assertIsNone(await self.api.lambda_("other:lambda"))
        await self.api.publish("room", {"at": NOON})
        self.assertEqual(self.tester.published, [(["room"], {"at": NOON})])
        with self.assertRaises(ApiError) as raised:
            await self.api.send_action("nobody:knows")
        self.assertEqual((raised.exception.code, raised.exception.status), (117, 404))
