"""Checks names and passwords against a directory (LDAP), and looks up groups. Knows no plugin.

There are three steps: the account of this service searches for the entry with the name; a *bind*
as that entry makes the directory check the password; then the entry's groups are looked up.
Passwords are never compared here and never stored.
"""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ldap3 import NONE, SIMPLE, SUBTREE, Connection, Server, Tls
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_filter_chars

TIMEOUT = 5
# Longer than any real name or password, and short enough to be cheap.
MAX_LENGTH = 256
SUCCESS = 0
SIZE_LIMIT_EXCEEDED = 4
# Results for a wrong password, an entry that has none, and one that may not sign in.
REFUSALS = {48, 49, 50, 53}
MAX_GROUPS = 200


class NotVouchedFor(Exception):
    """Nobody has this name and this password."""


class DirectoryAway(Exception):
    """The directory cannot be asked; this does not mean that a password is wrong."""


@dataclass(frozen=True)
class Person:
    """What the directory says about a person."""

    id: str
    """Permanent, even when the entry is moved or renamed."""
    dn: str
    name: str
    mail: str | None
    groups: list[str]


@dataclass
class Directory:
    """Where the directory is, and where in it people and groups are."""

    url: str
    base: str
    bind_dn: str = ""
    bind_password: str = field(default="", repr=False)
    user_filter: str = "(&(objectClass=inetOrgPerson)(uid={}))"
    group_filter: str = "(&(objectClass=groupOfNames)(member={}))"
    id_attribute: str = "entryUUID"
    ca_file: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("ldap", "ldaps") or not parts.hostname:
            raise ValueError(f"should be ldap://… or ldaps://…: {self.url}")
        is_local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        self._needs_start_tls = parts.scheme == "ldap" and (not is_local or bool(self.ca_file))
        self._tls = Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=self.ca_file)

    def _server(self) -> Server:
        """Creates a server for every connection; one that has failed stays failed for minutes."""
        parts = urlsplit(self.url)
        return Server(
            parts.hostname,
            port=parts.port,
            use_ssl=parts.scheme == "ldaps",
            tls=self._tls,
            get_info=NONE,
            connect_timeout=TIMEOUT,
        )

    def verify(self, username: Any, password: Any) -> Person:
        """Returns the person with this name and password.

        Raises `NotVouchedFor`, or `DirectoryAway`.
        """
        username, password = _text(username, "name"), _text(password, "password")
        try:
            entry = self._find(username)
            if not self._is_password_of(entry["dn"], password):
                raise NotVouchedFor("wrong password")
            return self._person(entry)
        except LDAPException as error:
            raise DirectoryAway(f"{type(error).__name__}: {error}") from None

    def _find(self, username: str) -> dict[str, Any]:
        wanted = self.user_filter.replace("{}", escape_filter_chars(username))
        attributes = [self.id_attribute, "cn", "displayName", "mail"]
        found = self._search(wanted, attributes, limit=2)
        if len(found) != 1:
            # Two people with one name: it is unclear who is meant.
            raise NotVouchedFor(f"{len(found)} people have that name")
        return found[0]

    def _is_password_of(self, dn: str, password: str) -> bool:
        # An empty password must not count: a directory reports success for such a bind, because
        # it treats it as anonymous (RFC 4513, 5.1.2).
        if not dn or not password:
            return False
        with _Connected(self, dn, password) as result:
            return result.is_bound

    def _person(self, entry: dict[str, Any]) -> Person:
        groups = self._search(
            self.group_filter.replace("{}", escape_filter_chars(entry["dn"])),
            ["cn"],
            limit=MAX_GROUPS,
        )
        return Person(
            id=self._id(entry),
            dn=entry["dn"],
            name=_first(entry, "displayName") or _first(entry, "cn") or "",
            mail=_first(entry, "mail"),
            groups=sorted(filter(None, (_first(group, "cn") for group in groups))),
        )

    def _id(self, entry: dict[str, Any]) -> str:
        """Returns an entry's permanent id. Its name would not do: the next person with the same
        name would get the account."""
        values = entry["raw_attributes"].get(self.id_attribute) or [b""]
        if not values[0]:
            raise DirectoryAway(f"{entry['dn']} has no {self.id_attribute} that we may read")
        text = values[0].decode("ascii", errors="ignore")
        return text if text.isprintable() and text.encode() == values[0] else values[0].hex()

    def _search(self, wanted: str, attributes: list[str], limit: int) -> list[dict[str, Any]]:
        with _Connected(self, self.bind_dn, self.bind_password) as result:
            if not result.is_bound:
                raise DirectoryAway(f"the account of this service is rejected: {self.bind_dn}")
            connection = result.connection
            connection.search(
                self.base,
                wanted,
                SUBTREE,
                attributes=attributes,
                size_limit=limit,
                time_limit=TIMEOUT,
            )
            code = connection.result["result"]
            # The base of the search has to exist: its absence does not make anybody's name wrong.
            if code not in (SUCCESS, SIZE_LIMIT_EXCEEDED):
                raise DirectoryAway(f"search: {connection.result['description']}")
            # Referrals to other servers are not followed: passwords stay at this one.
            entries = connection.response or []
            return [entry for entry in entries if entry["type"] == "searchResEntry"]


class _Connected:
    """A separate connection for every bind, so that nobody acts in somebody else's name."""

    def __init__(self, directory: Directory, dn: str, password: str) -> None:
        self.connection = Connection(
            directory._server(),
            user=dn or None,
            password=password or None,
            authentication=SIMPLE if dn else "ANONYMOUS",
            auto_referrals=False,
            receive_timeout=TIMEOUT,
            read_only=True,
        )
        self._needs_start_tls = directory._needs_start_tls
        self.is_bound = False

    def __enter__(self) -> _Connected:
        try:
            self.connection.open(read_server_info=False)
            if self._needs_start_tls and not self.connection.start_tls(read_server_info=False):
                raise DirectoryAway("it offers no TLS, and is not on this machine")
            self.is_bound = self.connection.bind(read_server_info=False)
            code = self.connection.result["result"]
            if not self.is_bound and code not in REFUSALS:
                raise DirectoryAway(f"bind: {self.connection.result['description']}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # The connection may be closed already.
        with contextlib.suppress(LDAPException):
            self.connection.unbind()


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_LENGTH or "\0" in value:
        raise NotVouchedFor(f"no {what}")
    return value


def _first(entry: dict[str, Any], name: str) -> str | None:
    value = entry["attributes"].get(name)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) and value else None
