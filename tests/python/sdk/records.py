"""Tests records with the SDK's own records, encoders, predicates, and queries."""

from datetime import datetime

from skygear.container import SkygearContainer
from skygear.encoding import deserialize_record, serialize_record
from skygear.error import SkygearException
from skygear.models import (
    DirectAccessControlEntry,
    Location,
    PublicAccessControlEntry,
    RecordID,
    Reference,
    RoleAccessControlEntry,
)
from skygear.predicate import Predicate
from skygear.query import Query

from harness import check, refused, result
from world import administrator, person, record, unique


def saved(container, *records):
    """Saves records and returns them as the server returns them."""
    answered = result(container.public_database.save(list(records)))
    return [deserialize_record(each) for each in answered]


def titles(container, predicate=None, **more):
    """Returns the titles that a query finds, in its order."""
    found = container.public_database.query(Query("py_book", predicate, **more))
    return "".join(each["title"] for each in found)


@check("records: every kind of value there and back")
def _():
    container, user = person("ada")
    target = record("py_target", {"name": "t"})
    saved(container, target)
    at = datetime(2020, 2, 3, 4, 5, 6, 789000)
    data = {
        "text": "ünïcödé 🚀",
        "number": 1.5,
        "flag": True,
        "list": [1, "two", {"three": 3}],
        "object": {"deep": {"er": []}},
        "at": at,
        "place": Location(114.125, 22.25),
        "target": Reference(target.id),
    }
    (back,) = saved(container, record("py_value", data))
    for name, value in data.items():
        assert back[name] == value, (name, back[name])
    assert back.owner_id == user and back.created_by == user and back.updated_by == user
    assert abs((back.created_at - datetime.now()).total_seconds()) < 3600


@check("records: access lists of every kind of entry")
def _():
    container, user = person("ben")
    acl = [
        PublicAccessControlEntry("read"),
        RoleAccessControlEntry("editor", "write"),
        DirectAccessControlEntry(user, "write"),
    ]
    (back,) = saved(container, record("py_listed", {"n": 1}, acl=acl))
    assert [type(each) for each in back.acl] == [type(each) for each in acl]
    assert [each.level for each in back.acl] == ["read", "write", "write"]
    assert back.acl[1].role == "editor" and back.acl[2].user_id == user


@check("records: a record that was read is changed and saved")
def _():
    container, _ = person("cy")
    (note,) = saved(container, record("py_note", {"text": "a", "place": "b"}))
    note["text"] = "changed"
    note["place"] = None
    # The encoder also sends owner and times; the server keeps its own.
    (back,) = saved(container, note)
    assert back.data == {"text": "changed"}
    assert back.owner_id == note.owner_id and back.created_at == note.created_at


@check("records: several are answered in order, a refused one in its place")
def _():
    container, _ = person("di")
    stranger, _ = person("ed")
    mine = record("py_note", {"text": "mine"}, acl=[PublicAccessControlEntry("read")])
    saved(container, mine)
    taken = record("py_note", {"text": "taken"}, key=mine.id.key)
    answered = result(
        stranger.public_database.save([record("py_note", {"text": "x"}), taken])
    )
    assert answered[0]["text"] == "x"
    assert answered[1]["_type"] == "error" and answered[1]["code"] == 102
    fresh = record("py_note", {"text": "y"})
    refused(115, stranger.public_database.save([fresh, taken], atomic=True))
    query = Query("py_note", Predicate(_id__eq=fresh.id.key))
    assert stranger.public_database.query(query) == []


@check("records: fetched and deleted by id")
def _():
    container, _ = person("flo")
    note = record("py_note", {"text": "short life"})
    saved(container, note)
    full_id = f"py_note/{note.id.key}"
    (fetched,) = result(container.send_action("record:fetch", {"ids": [full_id]}))
    assert fetched["text"] == "short life"
    (gone,) = result(container.public_database.delete(note))
    assert gone == {"_id": full_id, "_type": "record"}
    (missing,) = result(container.public_database.delete([full_id]))
    assert missing["_type"] == "error" and missing["code"] == 110


@check("records: predicates, order, limit, and offset")
def _():
    container, _ = person("gus")
    mark = unique("mark")
    books = [("A", 100, "fable"), ("B", 200, "novel"), ("C", 300, "novel")]
    data = [{"title": t, "pages": p, "genre": g, "mark": mark} for t, p, g in books]
    saved(container, *(record("py_book", each) for each in data))
    ours = Predicate(mark__eq=mark)

    def found(predicate):
        return "".join(sorted(titles(container, ours & predicate)))

    assert found(Predicate(genre__eq="novel")) == "BC"
    assert found(Predicate(genre__neq="novel")) == "A"
    assert found(Predicate(pages__gt=100, pages__lt=300)) == "B"
    assert found(Predicate(pages__gte=200)) == "BC"
    assert found(Predicate(pages__lte=100)) == "A"
    assert found(Predicate(title__in=["A", "C", "X"])) == "AC"
    assert found(Predicate(genre__like="%ab%")) == "A"
    assert found(Predicate(genre__ilike="NOV%")) == "BC"
    assert found(~Predicate(genre__eq="novel")) == "A"
    assert found(Predicate(title__eq="A") | Predicate(title__eq="B")) == "AB"
    assert found(Predicate(title__eq="A", pages__eq=300, op=Predicate.OR)) == "AC"
    query = Query("py_book", ours, limit=2, offset=1, count=True).add_order("pages", "desc")
    answered = container.public_database.query(query)
    assert [each["title"] for each in answered] == ["B", "A"]


@check("records: a query without a condition finds everything")
def _():
    container, _ = person("hue")
    kind = unique("py_all").replace("-", "_")
    saved(container, *(record(kind, {"n": n}) for n in range(60)))
    assert len(container.public_database.query(Query(kind))) == 50
    assert len(container.public_database.query(Query(kind, limit=None))) == 60


@check("records: what a reference points to is read along")
def _():
    container, _ = person("ida")
    mark = unique("mark")
    author = record("py_author", {"name": "ash"})
    saved(container, author)
    saved(container, record("py_work", {"mark": mark, "author": Reference(author.id)}))
    query = Query("py_work", Predicate(mark__eq=mark), include=["author", "_owner"])
    (work,) = container.public_database.query(query)
    assert work["author"] == Reference(RecordID("py_author", author.id.key))
    assert work["_transient"]["author"]["name"] == "ash"
    assert work["_transient"]["_owner"].id.type == "user"


@check("records: a wrong query raises the SDK's error")
def _():
    container, _ = person("jo")
    saved(container, record("py_note", {"text": "x"}))
    try:
        container.public_database.query(Query("py_note", Predicate(nosuch__eq=1)))
    except SkygearException as error:
        assert "nosuch" in error.message
        return
    raise AssertionError("not refused")


@check("records: private records, and the master key in a user's place")
def _():
    container, user = person("kim")
    diary = record("py_diary", {"text": "dear diary"})
    result(container.private_database.save(diary))
    query = Query("py_diary", Predicate(_id__eq=diary.id.key))
    assert [each["text"] for each in container.private_database.query(query)] == ["dear diary"]
    assert container.public_database.query(query) == []
    stands_in = administrator(user)
    assert [each["text"] for each in stands_in.private_database.query(query)] == ["dear diary"]
    (public,) = saved(stands_in, record("py_note", {"text": "for kim"}))
    assert public.owner_id == user


@check("records: the master key passes every list")
def _():
    container, user = person("liz")
    closed = record("py_note", {"text": "closed"}, acl=[])
    saved(container, closed)
    query = Query("py_note", Predicate(_id__eq=closed.id.key))
    assert SkygearContainer().public_database.query(query) == []
    (seen,) = administrator().public_database.query(query)
    assert seen["text"] == "closed" and seen.owner_id == user


@check("records: the encoder's record is what the decoder read")
def _():
    container, _ = person("mo")
    wire = result(container.public_database.save(record("py_note", {"text": "same"})))[0]
    again = serialize_record(deserialize_record(wire))
    for name in ("_id", "_access", "_ownerID", "_created_by", "_updated_by", "text"):
        assert again[name] == wire[name], name
