from __future__ import annotations

import json
import random
import unittest
from typing import Any

from skytrail.errors import MessageTooLarge
from skytrail.messages import (
    Cancelled,
    Noted,
    ProtocolError,
    Replied,
    Request,
    Requested,
    Welcomed,
)
from skytrail.session import ACK_MESSAGES, MAX_KEPT_MESSAGES, Hello, Session

WELCOME: dict[str, Any] = {
    "type": "welcome",
    "session": "s-1",
    "secret": "secret",
    "resumed": False,
    "heartbeat_ms": 10_000,
    "resume_ms": 15_000,
    "max_message": 10_000,
    "features": ["resume"],
}


def opened(**welcome: Any) -> Session:
    session = Session(Hello("TEST", "me"))
    session.connect(0.0)
    session.take_output(0.0)
    receive(session, {**WELCOME, **welcome})
    return session


def receive(session: Session, message: dict[str, Any], now: float = 0.0) -> list[Any]:
    return list(session.receive(json.dumps(message), now))


def sent(session: Session, now: float = 0.0) -> list[dict[str, Any]]:
    return [json.loads(text) for text in session.take_output(now)]


def request(seq: int, id: str | None = None) -> dict[str, Any]:
    return {"type": "request", "seq": seq, "id": id or f"r{seq}", "kind": "op", "name": "x"}


def asked(session: Session, seq: int) -> Request:
    (event,) = receive(session, request(seq))
    assert isinstance(event, Requested)
    return event.request


class OneSocket(unittest.TestCase):
    def test_hello_says_who_the_worker_is(self) -> None:
        session = Session(Hello("CHAT", "web-1", generation=3, window=4))
        session.connect(0.0, 7)
        (hello,) = sent(session)
        self.assertEqual(hello["plugin"], "CHAT")
        self.assertEqual((hello["worker"], hello["generation"]), ("web-1", 3))
        self.assertEqual((hello["window"], hello["from"]), (4, 7))
        self.assertEqual(hello["features"], ["resume", "deliver"])
        self.assertNotIn("resume", hello)
        self.assertNotIn("seq", hello)

    def test_what_is_sent_is_numbered_and_acknowledges(self) -> None:
        session = opened()
        first, second = asked(session, 1), asked(session, 2)
        session.respond(second, {"result": None})
        session.respond(first, {"error": {"code": 1, "message": "m"}})
        self.assertEqual(
            sent(session),
            [
                {"type": "response", "id": "r2", "result": None, "seq": 1, "ack": 2},
                {
                    "type": "response",
                    "id": "r1",
                    "error": {"code": 1, "message": "m"},
                    "seq": 2,
                    "ack": 2,
                },
            ],
        )

    def test_a_request_is_answered_once(self) -> None:
        session = opened()
        it = asked(session, 1)
        self.assertTrue(session.respond(it, {"result": 1}))
        self.assertFalse(session.respond(it, {"result": 2}))
        self.assertEqual(len(sent(session)), 1)
        self.assertEqual(session.num_in_flight, 0)

    def test_a_number_that_was_seen_is_skipped_and_a_gap_is_an_error(self) -> None:
        session = opened()
        asked(session, 1)
        self.assertEqual(receive(session, request(1)), [])
        with self.assertRaisesRegex(ProtocolError, "gap"):
            receive(session, request(3))

    def test_what_the_protocol_does_not_allow_is_an_error(self) -> None:
        for text in ("", "[]", "{", '{"type":"request","seq":1}', "null", '{"type":"drained"}'):
            with self.assertRaises(ProtocolError, msg=text):
                opened().receive(text, 0.0)
        fresh = Session(Hello("TEST", "me"))
        fresh.connect(0.0)
        with self.assertRaisesRegex(ProtocolError, "before welcome"):
            receive(fresh, request(1))
        with self.assertRaises(ProtocolError):
            receive(opened(), {"type": "ping", "ack": 1})

    def test_types_of_the_future_are_noted_with_and_without_a_number(self) -> None:
        session = opened()
        self.assertIsInstance(receive(session, {"type": "news", "seq": 1})[0], Noted)
        self.assertIsInstance(receive(session, {"type": "news"})[0], Noted)
        asked(session, 2)

    def test_a_ping_is_answered_at_once(self) -> None:
        session = opened()
        self.assertEqual(receive(session, {"type": "ping"}), [])
        self.assertEqual(sent(session), [{"type": "pong", "ack": 0}])

    def test_a_quiet_session_pings_and_a_silent_server_is_dead(self) -> None:
        session = opened()
        self.assertTrue(session.tick(9.9))
        self.assertEqual(sent(session), [])
        self.assertTrue(session.tick(10.0))
        self.assertEqual([it["type"] for it in sent(session, 10.0)], ["ping"])
        self.assertTrue(session.tick(29.9))
        self.assertFalse(session.tick(30.0))

    def test_calls_name_their_parent_and_their_limit(self) -> None:
        session = opened()
        self.assertEqual(session.call({"action": "a"}, "r7", 2.5), "c1")
        self.assertEqual(session.call({"action": "b"}, None, 60), "c2")
        first, second = sent(session)
        self.assertEqual((first["parent"], first["timeout_ms"]), ("r7", 2500))
        self.assertNotIn("parent", second)
        (event,) = receive(
            session, {"type": "reply", "seq": 1, "id": "c1", "status": 200, "body": {"result": 1}}
        )
        self.assertEqual(event, Replied("c1", 200, {"result": 1}))

    def test_too_large_an_answer_becomes_an_error_and_too_large_a_call_is_refused(self) -> None:
        session = opened(max_message=2000)
        session.respond(asked(session, 1), {"result": "x" * 2000})
        (answer,) = sent(session)
        # The client did nothing wrong.
        self.assertEqual(answer["error"]["code"], 10000)
        bound = r"^an answer of 20\d\d bytes is above the server's limit of 2000, PLUGIN_MAX_MESSAGE$"
        self.assertRegex(answer["error"]["message"], bound)
        own = opened(max_message=20 << 20)
        own.respond(asked(own, 1), {"result": "x" * (8 << 20)})
        message = sent(own)[0]["error"]["message"]
        self.assertIn("above the plugin's limit of 8388608, PLUGIN_MAX_MESSAGE", message)
        with self.assertRaises(MessageTooLarge):
            session.call({"x": "x" * 2000}, None, 1)
        # A message that was not sent has no number.
        session.call({"action": "a"}, None, 1)
        self.assertEqual([it["seq"] for it in sent(session)], [2])

    def test_an_error_whose_info_cannot_be_sent_keeps_its_code_and_message(self) -> None:
        session = opened(max_message=5000)
        infos: list[Any] = [{"why": object()}, {"why": "x" * 5000}, {"why": float("nan")}]
        for seq, info in enumerate(infos, 1):
            error = {"code": 102, "message": "no", "info": info}
            session.respond(asked(session, seq), {"error": error})
            error = sent(session)[0]["error"]
            self.assertEqual((error["code"], error["message"]), (102, "no"))
            # It is in the trace, which developers see.
            self.assertIn("its info cannot be sent", error["info"]["trace"])

    def test_an_answer_that_is_no_json_becomes_an_error(self) -> None:
        session = opened()
        results: list[Any] = [float("nan"), "\ud800", object(), [10**309], 10**5000]
        # They would arrive as other numbers.
        results += [10**308, {"a": 2**70 + 1}, 2**64 + 1, -(2**63) - 1]
        for seq, result in enumerate(results, 1):
            session.respond(asked(session, seq), {"result": result})
            self.assertEqual(sent(session)[0]["error"]["code"], 10000)

    def test_what_cannot_be_written_is_answered_whatever_writing_it_raises(self) -> None:
        class Broken(dict[str, Any]):
            def items(self) -> Any:
                raise LookupError("x" * 20_000)

        session = opened()
        session.respond(asked(session, 1), {"result": Broken(a=1)})
        session.respond(asked(session, 2), {"result": 1})
        first, second = sent(session)
        self.assertRegex(first["error"]["message"], "^x+$")
        self.assertEqual((second["result"], second["seq"]), (1, 2))

    def test_numbers_that_other_languages_can_read_are_sent(self) -> None:
        session = opened()
        result = [int(1e308), -(2**70), 2**64 - 1, 1 - 2**63, 1e300, "1" * 400]
        session.respond(asked(session, 1), {"result": result})
        self.assertEqual(sent(session)[0]["result"], result)

    def test_an_error_says_what_is_wrong_though_its_text_has_half_of_a_pair(self) -> None:
        session = opened()
        error = {"code": 108, "message": "not \ud83d", "info": {"\ud83d": 1}}
        session.respond(asked(session, 1), {"error": error})
        expected = {"code": 108, "message": "not \ufffd", "info": {"\ufffd": 1}}
        self.assertEqual(sent(session)[0]["error"], expected)

    def test_cancel_names_the_request(self) -> None:
        session = opened()
        asked(session, 1)
        cancel = {"type": "cancel", "seq": 2, "id": "r1", "reason": "deadline"}
        self.assertEqual(receive(session, cancel), [Cancelled("r1", "deadline")])

    def test_much_that_is_received_is_acknowledged_though_nothing_is_to_be_said(self) -> None:
        session = opened()
        for seq in range(1, ACK_MESSAGES + 1):
            receive(session, request(seq))
        self.assertEqual(sent(session), [{"type": "ping", "ack": ACK_MESSAGES}])


class Resume(unittest.TestCase):
    def test_a_session_that_lost_its_socket_says_what_it_has(self) -> None:
        session = opened()
        asked(session, 1)
        session.disconnect()
        session.connect(1.0)
        (hello,) = sent(session)
        resume = {"session": "s-1", "secret": "secret", "received": 1}
        self.assertEqual(hello["resume"], resume)

    def test_what_the_server_has_not_seen_is_sent_again_with_its_number(self) -> None:
        session = opened()
        requests = [asked(session, seq) for seq in (1, 2, 3)]
        session.respond(requests[0], {"result": 1})
        session.respond(requests[1], {"result": 2})
        sent(session)
        session.disconnect()
        session.respond(requests[2], {"result": 3})
        session.connect(1.0)
        sent(session)
        events = receive(session, {**WELCOME, "resumed": True, "received": 1})
        self.assertEqual(events, [Welcomed(resumed=True, lost=False)])
        self.assertEqual([(it["seq"], it["result"]) for it in sent(session)], [(2, 2), (3, 3)])

    def test_a_worker_that_pauses_goes_on_to_do_so_whether_or_not_its_session_is_resumed(self) -> None:
        for resumed in (True, False):
            session = opened()
            session.set_window(0)
            sent(session)
            session.disconnect()
            session.connect(1.0)
            self.assertEqual(sent(session)[0]["window"], 1)
            receive(session, {**WELCOME, "resumed": resumed, "received": 1})
            self.assertEqual([(it["type"], it["size"]) for it in sent(session)], [("window", 0)])

    def test_what_was_acknowledged_is_not_kept(self) -> None:
        session = opened()
        session.respond(asked(session, 1), {"result": 1})
        sent(session)
        receive(session, {"type": "ping", "ack": 1})
        session.disconnect()
        session.connect(1.0)
        sent(session)
        receive(session, {**WELCOME, "resumed": True, "received": 1})
        self.assertEqual(sent(session), [])

    def test_a_session_that_is_not_resumed_is_lost_with_its_requests(self) -> None:
        session = opened()
        old = asked(session, 1)
        session.disconnect()
        session.connect(1.0)
        sent(session)
        self.assertEqual(receive(session, WELCOME), [Welcomed(resumed=False, lost=True)])
        # The new session can reuse the old one's ids: the old answer is not for the new request.
        new = asked(session, 1)
        self.assertFalse(session.respond(old, {"result": "old"}))
        self.assertTrue(session.respond(new, {"result": "new"}))
        self.assertEqual([(it["seq"], it["result"]) for it in sent(session)], [(1, "new")])

    def test_a_server_that_does_not_resume_is_not_asked_to(self) -> None:
        session = opened(features=[])
        session.disconnect()
        session.connect(1.0)
        self.assertNotIn("resume", sent(session)[0])

    def test_a_session_that_forgot_something_is_not_resumed_until_it_was_acknowledged(self) -> None:
        session = opened()
        for _ in range(MAX_KEPT_MESSAGES + 1):
            session.call({}, None, 1)
        self.assertFalse(session.is_resumable)
        receive(session, {"type": "ping", "ack": 1})
        self.assertTrue(session.is_resumable)

    def test_progress_is_sent_only_for_what_runs(self) -> None:
        session = opened()
        it = asked(session, 1)
        session.progress(it)
        session.respond(it, {"result": None})
        session.progress(it)
        self.assertEqual([it["type"] for it in sent(session)], ["progress", "response"])


class Server:
    """The server's half of a session, as small as possible: enough to lose texts on the way."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.received = 0
        self.answers: list[str] = []

    def ask(self) -> dict[str, Any]:
        message = request(len(self.sent) + 1)
        self.sent.append(message)
        return message

    def take(self, message: dict[str, Any]) -> None:
        seq = message.get("seq")
        if seq is None or seq <= self.received:
            return
        assert seq == self.received + 1, (seq, self.received)
        self.received = seq
        self.answers.append(message["id"])

    def resume(self, received: int) -> list[dict[str, Any]]:
        welcome = {**WELCOME, "resumed": True, "received": self.received}
        return [welcome, *self.sent[received:]]


class RandomSchedules(unittest.TestCase):
    """However often the socket breaks and whatever gets lost: each request once, in order."""

    def test_every_request_arrives_once_and_is_answered_once(self) -> None:
        for seed in range(300):
            with self.subTest(seed=seed):
                self.play(random.Random(seed))

    def play(self, dice: random.Random) -> None:
        server, session = Server(), opened()
        to_worker: list[dict[str, Any]] = []
        to_server: list[dict[str, Any]] = []
        waiting: list[Request] = []
        seen: list[str] = []

        def deliver_to_worker() -> None:
            for event in receive(session, to_worker.pop(0)):
                if isinstance(event, Requested):
                    seen.append(event.request.id)
                    waiting.append(event.request)

        def pump() -> None:
            to_server.extend(sent(session))

        def reconnect() -> None:
            # Everything in flight is lost with the socket.
            to_worker.clear()
            to_server.clear()
            session.disconnect()
            session.connect(0.0)
            (hello,) = sent(session)
            to_worker.extend(server.resume(hello["resume"]["received"]))

        for _ in range(dice.randrange(20, 120)):
            step = dice.random()
            if step < 0.3:
                to_worker.append(server.ask())
            elif step < 0.55 and to_worker:
                deliver_to_worker()
            elif step < 0.75 and waiting:
                session.respond(waiting.pop(dice.randrange(len(waiting))), {"result": None})
                pump()
            elif step < 0.95 and to_server:
                server.take(to_server.pop(0))
            elif step >= 0.95:
                reconnect()
        reconnect()
        while to_worker:
            deliver_to_worker()
        for it in waiting:
            session.respond(it, {"result": None})
        pump()
        for message in to_server:
            server.take(message)
        everything = [message["id"] for message in server.sent]
        self.assertEqual(seen, everything)
        self.assertEqual(sorted(server.answers), sorted(everything))
