"""Signs people in with tokens of an OpenID provider, such as a social network."""

import hashlib
import logging
import os
from datetime import datetime, timedelta, timezone

from openid import NotVouchedFor, OpenIdProvider, ProviderAway
from skytrail import (
    ApiError,
    AuthProvider,
    Code,
    DirectAccessControlEntry,
    InvalidCredentials,
    Plugin,
    Record,
    SkygearException,
    current_context,
    field,
)

log = logging.getLogger("auth-openid")
plugin = Plugin("OPENID")
provider = OpenIdProvider(
    issuer=os.environ["OPENID_ISSUER"],
    client_id=os.environ["OPENID_CLIENT_ID"],
    client_secret=os.environ.get("OPENID_CLIENT_SECRET", ""),
)

# What we know about an account there. Users can read their own; nobody can create or write one.
ACCOUNT = "openid_account"
# A first login in progress: its id is the request's, and it says for whom a user is created. It
# holds a plain id, because what a reference names cannot be erased while the reference exists.
LOGIN = "openid_login"
# A role that nobody has, so that only the plugin, with the master key, can create such records.
NOBODY = "nobody-but-the-openid-plugin"
PROFILE = ("name", "email", "picture", "locale")


@plugin.event("before-plugins-ready")
async def make_types():
    names = ("subject", *PROFILE)
    fields = [{"name": name, "type": "string"} for name in names]
    account = [*fields, {"name": "user", "type": "ref(user)"}]
    user = [{"name": "name", "type": "string"}, {"name": "email", "type": "string"}]
    login = [{"name": "account_id", "type": "string"}]
    types = {ACCOUNT: {"fields": account}, LOGIN: {"fields": login}, "user": {"fields": user}}
    await plugin.api.send_action("schema:create", {"record_types": types})
    for name in (ACCOUNT, LOGIN):
        await plugin.api.send_action("schema:access", {"type": name, "create_roles": [NOBODY]})


@plugin.provides("auth", "openid", timeout=20)
class OpenId(AuthProvider):
    """`auth_data` is `{"id_token": …}`, `{"access_token": …}`, or both."""

    def login(self, auth_data):
        try:
            claims = provider.verify(auth_data)
        except NotVouchedFor as reason:
            log.info("refused: %s", reason)
            raise SkygearException("the token is not valid here", InvalidCredentials) from None
        except ProviderAway as reason:
            log.error("the provider cannot be asked: %s", reason)
            raise SkygearException("try again later", Code.PluginUnavailable) from None
        profile = profile_of(claims)
        remember(claims["sub"], profile)
        return {"principal_id": claims["sub"], "auth_data": profile}


def profile_of(claims):
    """Selects what we store. An address that is not verified may be anybody's."""
    profile = {name: claims[name] for name in PROFILE if isinstance(claims.get(name), str)}
    if claims.get("email_verified") is not True:
        profile.pop("email", None)
    return profile


def remember(subject, profile):
    """Stores what the provider said, and updates the user if they are known."""
    api = plugin.api.blocking
    account = kept(subject)
    user = account.get("user")
    try:
        if user is not None and not is_here(user.id.key):
            # Erased: the person who signs in now is a new user.
            user = account["user"] = None
    except SkygearException as refusal:
        if refusal.code == Code.UserDisabled:
            # The server rejects this user next; nothing is changed before that.
            return
        raise
    # It belongs to nobody until the user is created, which the same request does.
    account.acl = [DirectAccessControlEntry(user.id.key, "read")] if user is not None else []
    account.data.update({name: profile.get(name) for name in PROFILE})
    api.save(account)
    if user is not None:
        bring_up_to_date(user, account)
        return
    # If several first logins run at once, any of them may be the one that creates the user.
    login = Record(f"{LOGIN}/{current_context()['request_id']}", account_id=str(account.id))
    login.acl = []
    api.save(login)


def kept(subject):
    """Returns the stored record of an account. Its id is derived from the subject, so there is one
    record, however many logins run at once."""
    api = plugin.api.blocking
    digest = hashlib.sha256(subject.encode()).hexdigest()[:32]
    new = Record(f"{ACCOUNT}/{digest}", subject=subject)
    try:
        found = api.fetch(new.id)
    except ApiError as error:
        if error.code != Code.ResourceNotFound:
            raise
        return new
    if found.owner_id != "_god":
        # Somebody else created it before only the plugin could.
        api.delete(found)
        return new
    return found


def is_here(user_id):
    """Returns whether a user exists; raises `UserDisabled` for one who is locked out."""
    try:
        plugin.api.blocking.as_user(user_id).send_action("me")
    except ApiError as error:
        if error.code != Code.ResourceNotFound:
            raise
        return False
    return True


def bring_up_to_date(user, account):
    try:
        # Only if it exists: the user may be erased meanwhile. Its access list stays.
        plugin.api.blocking.save(Record(str(user.id), user_fields(account, user.id)), if_=[])
    except ApiError as error:
        # This must not make the login fail.
        log.warning("%s was not updated: %s", user.id, error)


def newcomer():
    """Returns the account for which the running request creates a user, or nothing."""
    context = current_context()
    if context.get("request_tag") not in ("auth", None) or "request_id" not in context:
        return None
    api = plugin.api.blocking
    try:
        login = api.fetch(f"{LOGIN}/{context['request_id']}")
    except ApiError as error:
        if error.code != Code.ResourceNotFound:
            raise
        return None
    return api.fetch(login["account_id"])


@plugin.before_save("user")
def introduce(user, original):
    if original is None and (account := newcomer()) is not None:
        user.data.update(user_fields(account, user.id))


@plugin.after_save("user")
def hand_over(user, original):
    if original is None and (account := newcomer()) is not None:
        account["user"] = user.reference
        account.acl = [DirectAccessControlEntry(user.id.key, "read")]
        plugin.api.blocking.save(account)


@plugin.every("@daily")
def forget_logins():
    """Deletes old login records, whether or not their logins created a user."""
    api = plugin.api.blocking
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    for login in api.query(LOGIN, field("_created_at") < yesterday, limit=1000):
        api.delete(login)


def user_fields(account, user_id):
    """Returns the fields of an account's user record. If another user has the address, it is left
    out: two users cannot sign in with the same one, and nobody should be locked out by it."""
    fields = {name: account[name] for name in ("name", "email") if account.get(name)}
    if "email" in fields:
        others = plugin.api.blocking.query("user", field("email") == fields["email"], limit=1)
        if others and others[0].id != user_id:
            del fields["email"]
    return fields


@plugin.op("openid:account", user_required=True)
async def account_of_user():
    """Returns what the provider said about the asking user."""
    user = current_context()["user_id"]
    found = await plugin.api.query(ACCOUNT, field("user") == Record(f"user/{user}").reference)
    if not found:
        raise ApiError("this user signs in another way", Code.ResourceNotFound, status=404)
    return {name: found[0].get(name) for name in ("subject", *PROFILE)}


if __name__ == "__main__":
    plugin.run()
