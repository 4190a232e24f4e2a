"""HTTP requests that handlers receive, and responses that they return."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from ._json import JsonObject, write
from .values import encode


class Headers(MutableMapping[str, str]):
    """Headers by name, ignoring case; a name can have several values."""

    def __init__(self, headers: Mapping[str, str | Iterable[str]] | None = None) -> None:
        self._values: dict[str, tuple[str, list[str]]] = {}
        for name, value in (headers or {}).items():
            values = [value] if isinstance(value, str) else list(value)
            self._values[name.lower()] = (name, values)

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()][1][0]

    def __setitem__(self, name: str, value: str) -> None:
        self._values[name.lower()] = (name, [str(value)])

    def __delitem__(self, name: str) -> None:
        del self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self.to_wire()!r})"

    def add(self, name: str, value: str) -> None:
        """Adds another value, as for several cookies."""
        self._values.setdefault(name.lower(), (name, []))[1].append(str(value))

    def get_all(self, name: str) -> list[str]:
        """Returns all values of a name."""
        return list(self._values.get(name.lower(), (name, []))[1])

    def to_wire(self) -> dict[str, list[str]]:
        return {name: list(values) for name, values in self._values.values()}


class Args(dict[str, str]):
    """Parameters of a query or form. Gives the first value of a name; `get_all` gives all."""

    def __init__(self, text: str) -> None:
        self._pairs = parse_qsl(text, keep_blank_values=True)
        super().__init__(reversed(self._pairs))

    def get_all(self, name: str) -> list[str]:
        """Returns all values of a name, in their order."""
        return [value for known, value in self._pairs if known == name]


@dataclass(frozen=True)
class Request:
    """What a client sent to a handler's path."""

    method: str
    path: str
    query_string: str = ""
    headers: Headers = field(default_factory=Headers)
    data: bytes = b""

    @classmethod
    def from_wire(cls, param: JsonObject) -> Request:
        return cls(
            method=param["method"],
            path=param.get("path", "/"),
            query_string=param.get("query_string") or "",
            headers=Headers(param.get("header") or {}),
            data=base64.b64decode(param.get("body") or ""),
        )

    def to_wire(self) -> JsonObject:
        wire: JsonObject = {
            "status": 0,
            "method": self.method,
            "header": self.headers.to_wire(),
            "body": base64.b64encode(self.data).decode(),
            "path": self.path,
        }
        return {**wire, "query_string": self.query_string} if self.query_string else wire

    @property
    def args(self) -> Args:
        """The query's parameters: the first value of each name; `args.get_all(name)` has all."""
        return Args(self.query_string)

    @property
    def form(self) -> Args:
        """The parameters in a form's body (`application/x-www-form-urlencoded`), like `args`."""
        return Args(self.text)

    @property
    def text(self) -> str:
        """The body, decoded as UTF-8."""
        return self.data.decode()

    def get_data(self) -> bytes:
        """Returns the body; v1's name for `data`."""
        return self.data

    def json(self) -> Any:
        """Parses the body as JSON."""
        return json.loads(self.data)


class Response:
    """A response with its own status and headers.

    A body that is neither a string nor bytes becomes JSON.
    """

    def __init__(
        self,
        body: Any = b"",
        status: int = HTTPStatus.OK,
        headers: Mapping[str, str | Iterable[str]] | None = None,
        content_type: str | None = None,
    ) -> None:
        if not 100 <= int(status) <= 999:
            raise ValueError(f"not an HTTP status: {status}")
        default_type = "application/octet-stream"
        if isinstance(body, str):
            body, default_type = body.encode(), "text/plain; charset=utf-8"
        elif not isinstance(body, bytes | bytearray | memoryview):
            body, default_type = write(encode(body)).encode(), "application/json"
        self.data = bytes(body)
        self.status = int(status)
        self.headers = Headers(headers)
        if content_type is not None or "Content-Type" not in self.headers:
            self.headers["Content-Type"] = content_type or default_type

    @classmethod
    def of(cls, returned: Any) -> Response:
        """Returns a response for whatever a handler returned."""
        return returned if isinstance(returned, Response) else cls(returned)

    @classmethod
    def from_wire(cls, result: JsonObject) -> Response:
        body = base64.b64decode(result.get("body") or "")
        return cls(body, result["status"], result.get("header") or {})

    def to_wire(self) -> JsonObject:
        return {
            "status": self.status,
            "header": self.headers.to_wire(),
            "body": base64.b64encode(self.data).decode(),
        }

    @property
    def text(self) -> str:
        """The body, decoded as UTF-8."""
        return self.data.decode()

    def json(self) -> Any:
        """Parses the body as JSON."""
        return json.loads(self.data)
