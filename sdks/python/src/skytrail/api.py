"""The server's actions, for plugins: records, lambdas, messages, anything by name.

Calls use the plugin's own socket and have the rights of the master key, unless `with_rights_of`
leaves them only those of a user. Within a request they
belong to it: they end with it, and the requests that they cause are sent to the same worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Protocol

from ._json import JsonObject
from .blocking import BlockingApi
from .calls import Reply
from .errors import ApiError, ConnectionLost
from .history import Moment, Version, write_moment
from .query import Condition
from .record import Record
from .values import RecordID, Reference, decode, encode

PUBLIC = "_public"
PRIVATE = "_private"


class Caller(Protocol):
    """Takes calls to the server: a worker, or a test."""

    async def call(self, payload: JsonObject, timeout: float | None = None) -> Reply: ...


class Line:
    """Where calls go at present."""

    def __init__(self) -> None:
        self.caller: Caller | None = None
        self.loop: Any = None


class Records(list[Record]):
    """The records of a query; `overall_count` is set if the query asked for it."""

    overall_count: int | None = None


class Api:
    """The API; see the module's description.

    `as_user` returns the same in a user's name, `with_rights_of` with only a user's rights.
    """

    def __init__(
        self, line: Line, user_id: str | None = None, *, has_only_users_rights: bool = False
    ) -> None:
        self._line = line
        self.user_id = user_id
        self.has_only_users_rights = has_only_users_rights

    def as_user(self, user_id: str) -> Api:
        """Returns an API that acts as a user: what it creates belongs to that user.

        It still has the rights of the master key, which ignore access lists. Raises `ValueError`
        without an id, because such calls would silently act in the master key's name.
        """
        if not user_id:
            raise ValueError("as_user needs a user's id; the master key's calls need no as_user")
        return Api(self._line, user_id)

    def with_rights_of(self, user_id: str) -> Api:
        """Returns an API that acts as a user and may do only what that user may.

        The server answers as it answers the user's own token: it finds and changes only what the
        user may find and change, and refuses a user who is disabled (127) or does not exist (104).
        Raises `ValueError` without an id.
        """
        if not user_id:
            raise ValueError("with_rights_of needs a user's id")
        return Api(self._line, user_id, has_only_users_rights=True)

    @property
    def blocking(self) -> BlockingApi:
        """The same API for functions that are not async and run in threads."""
        return BlockingApi(self, self._line)

    async def request(
        self, action: str, payload: JsonObject | None = None, *, timeout: float | None = None
    ) -> JsonObject:
        """Runs an action and returns its whole answer. Raises `ApiError`."""
        if self._line.caller is None:
            raise ConnectionLost("the plugin is not running; nothing was sent")
        body = {**encode(payload or {}), "action": action, "_from_plugin": True}
        if self.user_id is not None:
            body["_user_id"] = self.user_id
        if self.has_only_users_rights:
            body["_rights"] = "user"
        reply = await self._line.caller.call(body, timeout)
        answer = reply.body if isinstance(reply.body, dict) else {}
        if answer.get("error") is not None or reply.status >= 400:
            raise ApiError.from_wire(answer.get("error"), reply.status)
        return answer

    async def send_action(
        self, action: str, payload: JsonObject | None = None, *, timeout: float | None = None
    ) -> Any:
        """Runs any action by name and returns its result. Raises `ApiError`."""
        return decode((await self.request(action, payload, timeout=timeout)).get("result"))

    async def lambda_(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Runs a lambda, of this plugin or another, with a list or with named arguments."""
        if args and kwargs:
            raise TypeError("a lambda takes a list of arguments or named ones, not both")
        payload = {"args": kwargs or list(args)} if args or kwargs else {}
        return await self.send_action(name, payload)

    # -- records -------------------------------------------------------------

    async def save(
        self,
        record: Record,
        *,
        if_: Condition | Sequence[Any] | None = None,
        create_only: bool = False,
        database: str = PUBLIC,
    ) -> Record:
        """Saves a record and returns it as it is stored.

        Only the fields that the record has are saved, and its access list only if `acl` was set or
        fetched: otherwise a stored record keeps its list, and a new one gets its type's default.

        With `if_` it is saved only if the stored record exists and matches at that moment
        (`ConstraintViolated` otherwise), with `create_only` only if it does not exist (`Duplicated`
        otherwise): of several saves at once that need the same state, one succeeds.
        """
        if not isinstance(record, Record):
            raise TypeError("save takes one record; save_many takes several")
        saved = self.save_many([record], if_=if_, create_only=create_only, database=database)
        return _only(await saved)

    async def save_many(
        self,
        records: Iterable[Record],
        *,
        atomic: bool = False,
        if_: Condition | Sequence[Any] | None = None,
        create_only: bool = False,
        database: str = PUBLIC,
    ) -> list[Record | ApiError]:
        """Saves several records; the slots of those that failed have their errors.

        With `atomic`, either all are saved or none, and a failure is raised. `if_` and
        `create_only` are as in `save`, for each of the records.
        """
        wire = [record.to_wire() for record in records]
        payload: JsonObject = {"records": wire, "atomic": atomic, "database_id": database}
        # A record that was built from an id and a few fields says nothing about access.
        payload["keep_access"] = True
        if if_ is not None:
            payload["if"] = if_.to_wire() if isinstance(if_, Condition) else if_
        if create_only:
            payload["create_only"] = True
        return [_record(slot) for slot in _slots(await self.request("record:save", payload))]

    async def fetch(
        self,
        id: RecordID | Reference | str,
        *,
        database: str = PUBLIC,
        as_of: Moment | None = None,
    ) -> Record:
        """Fetches a record by its id; with `as_of`, as it was at that point in time."""
        return _only(await self.fetch_many([id], database=database, as_of=as_of))

    async def fetch_many(
        self,
        ids: Iterable[RecordID | Reference | str],
        *,
        database: str = PUBLIC,
        as_of: Moment | None = None,
    ) -> list[Record | ApiError]:
        """Fetches several records; the slots of those that failed have their errors."""
        payload: JsonObject = {"ids": _ids(ids), "database_id": database}
        if as_of is not None:
            payload["as_of"] = write_moment(as_of)
        return [_record(slot) for slot in _slots(await self.request("record:fetch", payload))]

    async def query(
        self,
        record_type: str,
        where: Condition | Sequence[Any] | None = None,
        *,
        sort: Sequence[Any] = (),
        limit: int | None = None,
        offset: int | None = None,
        include: dict[str, Any] | None = None,
        count: bool = False,
        database: str = PUBLIC,
        as_of: Moment | None = None,
    ) -> Records:
        """Finds records: `query("note", field("stars") > 3, sort=[field("title").ascending])`.

        `where` and `sort` are conditions (`skytrail.query`) or their JSON form, as in docs/API.md.
        With `as_of` it returns what it would have found at that point in time.
        """
        payload: JsonObject = {"record_type": record_type, "database_id": database, "count": count}
        if where is not None:
            payload["predicate"] = where.to_wire() if isinstance(where, Condition) else where
        if sort:
            payload["sort"] = list(sort)
        optional = {"limit": limit, "offset": offset, "include": include}
        optional["as_of"] = write_moment(as_of)
        payload.update((name, value) for name, value in optional.items() if value is not None)
        answer = await self.request("record:query", payload)
        records = Records(Record.from_wire(slot) for slot in _slots(answer))
        records.overall_count = (answer.get("info") or {}).get("count")
        return records

    async def delete(
        self, id: Record | RecordID | Reference | str, *, database: str = PUBLIC
    ) -> None:
        """Deletes a record."""
        for error in await self.delete_many([id], database=database):
            if error is not None:
                raise error

    async def delete_many(
        self,
        ids: Iterable[Record | RecordID | Reference | str],
        *,
        atomic: bool = False,
        database: str = PUBLIC,
    ) -> list[ApiError | None]:
        """Deletes several records; the slots of those that failed have their errors."""
        payload = {"ids": _ids(ids), "atomic": atomic, "database_id": database}
        return [_error(slot) for slot in _slots(await self.request("record:delete", payload))]

    # -- history -------------------------------------------------------------

    async def history(
        self,
        id: Record | RecordID | Reference | str,
        *,
        until: Moment | None = None,
        after: Moment | None = None,
        user: str | None = None,
        kinds: Sequence[str] | None = None,
        page: int = 50,
    ) -> AsyncIterator[Version]:
        """Iterates over a record's versions, newest first, one page at a time.

        `until` and `after` are moments; `user` and `kinds` (`record.changed`, …) filter.
        """
        cursor: Moment | None = until
        while True:
            versions, following = await self.history_page(
                id, until=cursor, after=after, user=user, kinds=kinds, limit=page
            )
            for version in versions:
                yield version
            if following is None:
                return
            cursor = following

    async def history_page(
        self,
        id: Record | RecordID | Reference | str,
        *,
        until: Moment | None = None,
        after: Moment | None = None,
        user: str | None = None,
        kinds: Sequence[str] | None = None,
        limit: int = 50,
    ) -> tuple[list[Version], int | None]:
        """Returns one page of `history`, and the `until` of the next page, `None` at the end."""
        optional = {
            "until": write_moment(until),
            "after": write_moment(after),
            "user": user,
            "kinds": None if kinds is None else list(kinds),
        }
        payload: JsonObject = {"record": _ids([id])[0], "limit": limit}
        payload.update((name, value) for name, value in optional.items() if value is not None)
        result = (await self.request("history:list", payload)).get("result") or {}
        return [Version.from_wire(it) for it in result.get("versions", [])], result.get("next")

    async def restore(
        self, id: Record | RecordID | Reference | str, as_of: Moment | Version
    ) -> Record:
        """Saves a record as it was, as a new version; a deleted record exists again."""
        moment = as_of.position if isinstance(as_of, Version) else write_moment(as_of)
        payload = {"record": _ids([id])[0], "as_of": moment}
        return Record.from_wire((await self.request("history:restore", payload))["result"])

    # -- messages ------------------------------------------------------------

    async def publish(self, channels: str | Iterable[str], data: Any) -> None:
        """Publishes to a channel, or to several at once."""
        names = [channels] if isinstance(channels, str) else list(channels)
        await self.request("pubsub:publish", {"channels": names, "data": data})

    async def push_to_users(
        self, users: Iterable[str], notification: JsonObject, *, topic: str | None = None
    ) -> None:
        """Sends a notification to all devices of users, or only to those with a topic.

        `{"apns": {"aps": {"alert": "hi"}}, "fcm": {…}, "web": {…}}`: what each kind of device gets.
        """
        payload = {"user_ids": list(users), "notification": notification, "topic": topic}
        await self.request("push:user", payload)

    async def push_to_devices(
        self, devices: Iterable[str], notification: JsonObject, *, topic: str | None = None
    ) -> list[str]:
        """Like `push_to_users`, for devices. Returns the ids of those that exist."""
        payload = {"device_ids": list(devices), "notification": notification, "topic": topic}
        slots = _slots(await self.request("push:device", payload))
        return [slot["_id"] for slot in slots if _error(slot) is None]


def _slots(answer: JsonObject) -> list[JsonObject]:
    result = answer.get("result")
    if not isinstance(result, list):
        raise ApiError(f"the server answered {result!r} instead of a list", 10000)
    return result


def _error(slot: JsonObject) -> ApiError | None:
    return ApiError.from_wire(slot) if slot.get("_type") == "error" else None


def _record(slot: JsonObject) -> Record | ApiError:
    return _error(slot) or Record.from_wire(slot)


def _only(slots: list[Record | ApiError]) -> Record:
    slot = slots[0]
    if isinstance(slot, ApiError):
        raise slot
    return slot


def _ids(ids: Iterable[Any]) -> list[str]:
    return [str(it.id if isinstance(it, Record | Reference) else it) for it in ids]
