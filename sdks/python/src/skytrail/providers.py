"""Auth providers: classes that authenticate users."""

from __future__ import annotations

from typing import Any

from ._json import JsonObject
from .errors import NotSupported, SkygearException
from .functions import Function
from .threads import Threads
from .values import encode

ACTIONS = ("login", "logout", "info")


class AuthProvider:
    """Base class of auth providers; methods can be async.

    `login` receives what the client sent as `provider_auth_data`, and returns who that is:

        {"principal_id": "42", "auth_data": {"name": "Ada"}}

    The principal is the account's permanent id. `auth_data` is stored with the user and replaced at
    each login. Whatever is raised, the client learns only that the credentials are wrong.
    """

    def login(self, auth_data: JsonObject) -> Any:
        """Returns who the user is, or raises."""
        raise SkygearException("this provider has no login", NotSupported)

    def logout(self, auth_data: JsonObject) -> Any:
        return {"auth_data": auth_data}

    def info(self, auth_data: JsonObject) -> Any:
        return {"auth_data": auth_data}


# v1's name for it.
BaseAuthProvider = AuthProvider


async def run_provider(
    provider: AuthProvider, action: str, auth_data: JsonObject, threads: Threads
) -> JsonObject:
    """Calls a provider, and checks that its answer is valid."""
    if action not in ACTIONS:
        raise SkygearException(f"auth providers have no action {action!r}", NotSupported)
    result = await Function(getattr(provider, action)).run(threads, auth_data)
    if not isinstance(result, dict):
        raise TypeError(f"{action} should return an object, not {result!r}")
    if action == "login":
        principal = result.get("principal_id")
        if not isinstance(principal, str) or not principal:
            raise TypeError(f"login should return a principal_id, not {principal!r}")
    encoded = encode(result)
    assert isinstance(encoded, dict)
    return encoded
