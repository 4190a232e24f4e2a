from __future__ import annotations

import json
import unittest
from datetime import datetime, timedelta, timezone
from typing import Any

from skytrail import (
    Asset,
    DirectAccessControlEntry,
    GeoJSON,
    Location,
    PublicAccessControlEntry,
    Record,
    RecordID,
    Reference,
    Sequence,
    UnknownValue,
)
from skytrail._json import write
from skytrail.values import Foreign, decode, encode, parse_date

NOON = datetime(2024, 6, 11, 12, 0, 0, 123456, timezone.utc)


class Values(unittest.TestCase):
    def test_typed_values_come_back_as_they_went(self) -> None:
        values = {
            "date": NOON,
            "room": Reference.to("room/1/2"),
            "place": Location(1.5, -2),
            "file": Asset("a.png", "image/png", "http://x/a.png"),
            "number": Sequence(),
            "odd": UnknownValue("money"),
            "shape": GeoJSON({"type": "Point", "coordinates": [1, 2]}),
            "deep": [{"in": [NOON]}, None, True, 1, 1.5, "text"],
        }
        self.assertEqual(decode(json.loads(write(encode(values)))), values)

    def test_typed_values_look_as_the_server_wants_them(self) -> None:
        self.assertEqual(
            encode([NOON, RecordID("note", "1"), Location(1, 2)]),
            [
                {"$type": "date", "$date": "2024-06-11T12:00:00.123456Z"},
                {"$type": "ref", "$id": "note/1"},
                {"$type": "geo", "$lng": 1, "$lat": 2},
            ],
        )

    def test_dates_of_every_precision_and_zone_are_read(self) -> None:
        for text in (
            "2024-06-11T12:00:00.123456789Z",
            "2024-06-11T12:00:00.123456Z",
            "2024-06-11T14:00:00.123456+02:00",
        ):
            self.assertEqual(parse_date(text), NOON, text)
        self.assertEqual(parse_date("2024-06-11T12:00:00.5Z").microsecond, 500_000)
        self.assertEqual(parse_date("2024-06-11T12:00:00Z").microsecond, 0)

    def test_dates_without_a_zone_are_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "zone"):
            encode(datetime(2024, 6, 11))
        with self.assertRaisesRegex(ValueError, "zone"):
            parse_date("2024-06-11T12:00:00")

    def test_dates_that_no_datetime_can_be_travel_back_untouched(self) -> None:
        for text in (
            "0000-01-01T00:00:00Z",
            "-0001-12-31T23:00:00Z",
            "+10000-01-01T00:00:00Z",
            "9999-12-31T23:59:59.5-01:00",
            "2016-12-31T23:59:60Z",
        ):
            wire = {"at": {"$type": "date", "$date": text}}
            self.assertIsInstance(decode(wire)["at"], Foreign, text)
            self.assertEqual(encode(decode(wire)), wire)
        for text in ("soon", "2024-06-11", "2024-06-11T12:00:00"):
            with self.assertRaises(ValueError):
                decode({"$type": "date", "$date": text})

    def test_dates_of_other_zones_are_written_in_utc(self) -> None:
        there = timezone(timedelta(hours=-7))
        wire = encode(NOON.astimezone(there))
        self.assertEqual(wire["$date"], "2024-06-11T12:00:00.123456Z")

    def test_a_type_of_the_future_travels_back_untouched(self) -> None:
        wire = {"$type": "colour", "$rgb": [1, 2, 3]}
        self.assertEqual(encode(decode({"c": wire})), {"c": wire})

    def test_what_json_cannot_carry_is_refused(self) -> None:
        for value in (float("nan"), float("inf"), "\ud800"):
            with self.assertRaises(ValueError):
                write(encode(value))
        with self.assertRaisesRegex(TypeError, "object"):
            encode(object())

    def test_what_has_no_end_or_is_nested_too_deeply_is_refused_by_name(self) -> None:
        circle: list[Any] = [1]
        circle.append({"again": (circle,)})
        note = Record(RecordID("note", "1"))
        note["self"] = {"note": note}
        for value in (circle, note, {"a": [note]}):
            with self.assertRaisesRegex(ValueError, "^a value that refers to itself cannot be sent$"):
                encode(value)
        with self.assertRaisesRegex(ValueError, "refers to itself"):
            note.to_wire()
        # The contents of errors and shapes are written without encoding.
        with self.assertRaisesRegex(ValueError, "^a value that refers to itself cannot be sent$"):
            write(circle)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        for act in (encode, write):
            with self.assertRaisesRegex(ValueError, "^nested deeper than 64$"):
                act(deep)
        # A value that occurs twice side by side is not a cycle, also after a failure.
        twice = {"a": 1}
        self.assertEqual(encode([twice, twice, {"b": twice}]), [twice, twice, {"b": twice}])

    def test_nesting_is_limited_and_brackets_in_text_do_not_count(self) -> None:
        deep: list[object] = []
        for _ in range(63):
            deep = [deep]
        write(deep)
        write(["[" * 100, '"\\' + "{" * 100])
        with self.assertRaisesRegex(ValueError, "deeper"):
            write([deep])


WIRE = {
    "_id": "note/1",
    "_type": "record",
    "_access": [{"level": "read", "public": True}, {"user_id": "u1", "level": "write"}],
    "_ownerID": "u1",
    "_created_at": "2024-06-11T12:00:00.123456Z",
    "_created_by": "u1",
    "_updated_at": "2024-06-11T12:00:00.123456Z",
    "_updated_by": "u2",
    "_transient": {"x": 1, "room": {"_id": "room/1", "_type": "record", "name": "r"}},
    "title": "hi",
    "when": {"$type": "date", "$date": "2024-06-11T12:00:00.123456Z"},
}


class Records(unittest.TestCase):
    def test_a_record_travels_back_as_it_came(self) -> None:
        self.assertEqual(Record.from_wire(WIRE).to_wire(), WIRE)

    def test_a_record_within_something_keeps_its_name(self) -> None:
        wire = encode([Record.from_wire(WIRE)])
        self.assertEqual(wire, [{"$type": "record", "$record": WIRE}])
        self.assertEqual(decode(wire)[0].id, RecordID("note", "1"))

    def test_a_record_knows_what_the_server_keeps_about_it(self) -> None:
        record = Record.from_wire(WIRE)
        self.assertEqual((record.id.type, record.id.key), ("note", "1"))
        self.assertEqual(
            (record.owner_id, record.created_by, record.updated_by), ("u1", "u1", "u2")
        )
        self.assertEqual((record.created_at, record.updated_at), (NOON, NOON))
        self.assertEqual(record.transient["x"], 1)
        self.assertEqual(record.transient["room"]["name"], "r")
        entries = [PublicAccessControlEntry("read"), DirectAccessControlEntry("u1", "write")]
        self.assertEqual(record.acl, entries)
        self.assertEqual(dict(record), {"title": "hi", "when": NOON})

    def test_access_is_sent_only_if_it_is_known(self) -> None:
        record = Record("note/1", title="hi")
        self.assertEqual(record.to_wire(), {"_id": "note/1", "title": "hi"})
        record.acl = [PublicAccessControlEntry("read")]
        self.assertEqual(record.to_wire()["_access"], [{"public": True, "level": "read"}])

    def test_a_list_that_is_set_to_none_lets_everybody_in(self) -> None:
        everybody = [{"public": True, "level": "write"}]
        for record in (Record("note/1"), Record.from_wire({**WIRE, "_access": []})):
            record.acl = None
            self.assertEqual((record.acl, record.to_wire()["_access"]), (None, everybody))
        # One that only came with the record is sent back: the server keeps what it has.
        record = Record.from_wire({**WIRE, "_access": None})
        self.assertEqual((record.acl, record.to_wire()["_access"]), (None, None))
        record.acl = []
        self.assertEqual(record.to_wire()["_access"], [])

    def test_entries_may_be_given_as_they_travel(self) -> None:
        record = Record("note/1")
        wire = [
            {"public": True, "level": "read"},
            {"user_id": "u1", "level": "write"},
            {"role": "editor", "level": "write"},
            {"relation": "friend", "level": "read"},
            {"newer": 1},
        ]
        record.acl = wire
        self.assertEqual(record.to_wire()["_access"], wire)
        self.assertEqual(record.acl[1], DirectAccessControlEntry("u1", "write"))
        record.acl = [PublicAccessControlEntry("read"), *wire[1:]]
        self.assertEqual(record.to_wire()["_access"], wire)
        record.acl = []
        record.acl.append(wire[0])
        self.assertEqual(record.to_wire()["_access"], wire[:1])
        for wrong in (["read"], [None], wire[0], "read"):
            with self.assertRaisesRegex(TypeError, "an access list has entries such as"):
                record.acl = wrong
        self.assertEqual(record.to_wire()["_access"], wire[:1])

    def test_names_of_the_server_are_not_fields(self) -> None:
        with self.assertRaises(KeyError):
            Record("note")["_ownerID"] = "me"

    def test_a_record_without_a_key_gets_one(self) -> None:
        first, second = Record("note"), Record("note")
        self.assertEqual(first.id.type, "note")
        self.assertNotEqual(first.id, second.id)
        for wrong in ("note/", "/1"):
            with self.assertRaises(ValueError):
                Record(wrong)
