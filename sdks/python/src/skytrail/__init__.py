"""Plugins for Skytrail.

    import skytrail

    @skytrail.op("hello:world", user_required=True)
    async def hello(who):
        return {"message": f"hello {who}"}

    @skytrail.before_save("note")
    def check(record, original):
        if not record.get("title"):
            raise skytrail.SkygearException("title is required", skytrail.InvalidArgument)

    if __name__ == "__main__":
        skytrail.run()

The decorators of this module belong to one plugin, `skytrail.plugin`. To have several plugins, or
no globals, create a `Plugin` and use its methods, which are the same.
"""

from .access import (
    AccessControlEntry,
    DirectAccessControlEntry,
    PublicAccessControlEntry,
    RelationalAccessControlEntry,
    RoleAccessControlEntry,
)
from .api import Api
from .blocking import BlockingApi
from .context import Running, current_context, current_request, progress
from .errors import (
    ApiError,
    CallTimeout,
    Code,
    ConnectionLost,
    Drop,
    InvalidArgument,
    InvalidCredentials,
    PermissionDenied,
    ResourceNotFound,
    RetryAfter,
    SkygearException,
    UnexpectedError,
)
from .messages import Delivery
from .plugin import Plugin
from .providers import AuthProvider, BaseAuthProvider
from .history import Change, Moment, Version
from .query import field
from .record import Record
from .values import Asset, GeoJSON, Location, RecordID, Reference, Sequence, UnknownValue
from .web import Request, Response
from .worker import Refused

plugin = Plugin()

op = plugin.op
lambda_ = plugin.lambda_
handler = plugin.handler
before_save = plugin.before_save
after_save = plugin.after_save
before_delete = plugin.before_delete
after_delete = plugin.after_delete
every = plugin.every
provides = plugin.provides
event = plugin.event
static_assets = plugin.static_assets
run = plugin.run
api = plugin.api

__version__ = "0.1.0"

__all__ = [
    "AccessControlEntry",
    "Api",
    "ApiError",
    "Asset",
    "AuthProvider",
    "BaseAuthProvider",
    "BlockingApi",
    "CallTimeout",
    "Change",
    "Code",
    "ConnectionLost",
    "Delivery",
    "DirectAccessControlEntry",
    "Drop",
    "GeoJSON",
    "InvalidArgument",
    "InvalidCredentials",
    "Location",
    "Moment",
    "PermissionDenied",
    "Plugin",
    "PublicAccessControlEntry",
    "Record",
    "RecordID",
    "Reference",
    "Refused",
    "RelationalAccessControlEntry",
    "Request",
    "ResourceNotFound",
    "Response",
    "RetryAfter",
    "RoleAccessControlEntry",
    "Running",
    "Sequence",
    "SkygearException",
    "UnexpectedError",
    "UnknownValue",
    "Version",
    "after_delete",
    "after_save",
    "api",
    "before_delete",
    "before_save",
    "current_context",
    "current_request",
    "event",
    "every",
    "field",
    "handler",
    "lambda_",
    "op",
    "plugin",
    "progress",
    "provides",
    "run",
    "static_assets",
]
