"""Errors that plugins raise, and errors that the server's actions return.

Whatever a function raises becomes the answer to the request. A `SkygearException` is sent as it is.
Anything else becomes an unexpected error (10000) with the traceback in `info.trace`, which the
server shows to clients in development mode only.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from ._json import JsonObject
from .values import encode


class Code(IntEnum):
    """The codes that clients know by name. A plugin may also use its own codes."""

    NotAuthenticated = 101
    PermissionDenied = 102
    AccessKeyNotAccepted = 103
    AccessTokenNotAccepted = 104
    InvalidCredentials = 105
    InvalidSignature = 106
    BadRequest = 107
    InvalidArgument = 108
    Duplicated = 109
    ResourceNotFound = 110
    NotSupported = 111
    NotImplemented = 112
    ConstraintViolated = 113
    IncompatibleSchema = 114
    AtomicOperationFailure = 115
    PartialOperationFailure = 116
    UndefinedOperation = 117
    PluginUnavailable = 118
    PluginTimeout = 119
    RecordQueryInvalid = 120
    PluginInitializing = 121
    ResponseTimeout = 122
    DeniedArgument = 123
    RecordQueryDenied = 124
    NotConfigured = 125
    PasswordPolicyViolated = 126
    UserDisabled = 127
    VerificationRequired = 128
    AssetSizeTooLarge = 129
    UnexpectedError = 10000


# The names of v1, for `from skytrail.errors import InvalidArgument`.
NotAuthenticated = Code.NotAuthenticated
PermissionDenied = Code.PermissionDenied
AccessKeyNotAccepted = Code.AccessKeyNotAccepted
AccessTokenNotAccepted = Code.AccessTokenNotAccepted
InvalidCredentials = Code.InvalidCredentials
InvalidSignature = Code.InvalidSignature
BadRequest = Code.BadRequest
InvalidArgument = Code.InvalidArgument
Duplicated = Code.Duplicated
ResourceNotFound = Code.ResourceNotFound
NotSupported = Code.NotSupported
ConstraintViolated = Code.ConstraintViolated
UndefinedOperation = Code.UndefinedOperation
UnexpectedError = Code.UnexpectedError


class SkygearException(Exception):
    """An error with a code that clients branch on; `info` is for programs to read."""

    def __init__(
        self,
        message: str,
        code: int = Code.UnexpectedError,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = int(code)
        self.info: JsonObject = dict(info or {})

    def as_dict(self) -> JsonObject:
        """Returns the error in its JSON form."""
        wire: JsonObject = {"code": self.code, "message": self.message}
        if self.info:
            wire["info"] = self.info
        return wire


class Drop(SkygearException):
    """Raised by an after-hook: this event can never be handled; do not send it again."""

    def __init__(self, message: str, code: int = Code.UnexpectedError) -> None:
        super().__init__(message, code, {"drop": True})


class RetryAfter(SkygearException):
    """Raised by an after-hook: not now; send the event again after this many seconds."""

    def __init__(
        self, seconds: float, message: str = "not now", code: int = Code.UnexpectedError
    ) -> None:
        super().__init__(message, code, {"retry_after_ms": max(0, round(seconds * 1000))})


class ApiError(SkygearException):
    """An action that the plugin called has failed. If nobody catches it, it becomes the answer."""

    def __init__(
        self, message: str, code: int, info: Mapping[str, Any] | None = None, status: int = 500
    ) -> None:
        super().__init__(message, code, info)
        self.status = status

    @classmethod
    def from_wire(cls, error: Any, status: int = 200) -> ApiError:
        """Reads an action's `error` member, or one slot of a batch."""
        if not isinstance(error, dict):
            return cls(f"the action failed with status {status}", Code.UnexpectedError, {}, status)
        message = str(error.get("message") or f"the action failed with status {status}")
        info = error.get("info")
        code = error.get("code")
        return cls(
            message,
            code if isinstance(code, int) and code else Code.UnexpectedError,
            info if isinstance(info, dict) else {},
            status,
        )


# Why requests are cancelled when their session has ended.
LOST = "connection lost"


class ConnectionLost(ApiError):
    """The server never replied: the action may or may not have happened."""

    def __init__(self, message: str = "connection lost; the action may have happened") -> None:
        super().__init__(message, Code.PluginUnavailable, {}, 503)


class CallTimeout(ApiError):
    """No reply arrived in time: the action may or may not have happened."""

    def __init__(self, message: str = "no reply in time; the action may have happened") -> None:
        super().__init__(message, Code.ResponseTimeout, {}, 504)


class MessageTooLarge(ApiError):
    """The message is larger than the limit of `whose`; nothing was sent."""

    def __init__(
        self, num_bytes: int, limit: int, what: str = "a message", whose: str = "server"
    ) -> None:
        bound = f"the {whose}'s limit of {limit}, PLUGIN_MAX_MESSAGE"
        message = f"{what} of {num_bytes} bytes is above {bound}"
        super().__init__(message, Code.BadRequest, {}, 413)


def to_wire(error: BaseException) -> JsonObject:
    """Returns the answer to a failed request. Never raises, even if the exception's methods do."""
    if isinstance(error, SkygearException):
        with contextlib.suppress(Exception):
            wire = error.as_dict()
            # If the info cannot be encoded, it cannot be sent, and the session reports that.
            with contextlib.suppress(Exception):
                wire = {**wire, **encode({"info": wire["info"]})}
            return wire
    name = type(error).__name__
    try:
        message = str(error) or name
    except Exception:
        message = name
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception:
        trace = message
    return {"code": int(Code.UnexpectedError), "message": message, "info": {"trace": trace}}
