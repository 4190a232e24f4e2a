"""Signs people in who show a token of an OpenID provider, such as the one of a social network."""

import logging
import os

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

# What we know of an account there. Users may read their own, and nobody may write it.
ACCOUNT = "openid_account"
PROFILE = ("name", "email", "picture", "locale")


@plugin.event("before-plugins-ready")
async def make_types():
    names = ("subject", "login", *PROFILE)
    fields = [{"name": name, "type": "string"} for name in names]
    account = [*fields, {"name": "user", "type": "ref(user)"}]
    user = [{"name": "name", "type": "string"}, {"name": "email", "type": "string"}]
    types = {ACCOUNT: {"fields": account}, "user": {"fields": user}}
    await plugin.api.send_action("schema:create", {"record_types": types})


@plugin.provides("auth", "openid", timeout=20)
class OpenId(AuthProvider):
    """`auth_data` is `{"id_token": …}`, `{"access_token": …}`, or both."""

    def login(self, auth_data):
        try:
            claims = provider.verify(auth_data)
        except NotVouchedFor as reason:
            log.info("refused: %s", reason)
            raise SkygearException("the token is not good here", InvalidCredentials) from None
        except ProviderAway as reason:
            log.error("the provider cannot be asked: %s", reason)
            raise SkygearException("try again later", Code.PluginUnavailable) from None
        profile = profile_of(claims)
        remember(claims["sub"], profile)
        return {"principal_id": claims["sub"], "auth_data": profile}


def profile_of(claims):
    """Picks what we keep. An address that nobody has verified may be anybody's."""
    profile = {name: claims[name] for name in PROFILE if isinstance(claims.get(name), str)}
    if claims.get("email_verified") is not True:
        profile.pop("email", None)
    return profile


def remember(subject, profile):
    """Keeps what the provider said, and brings a user who is known up to date."""
    api = plugin.api.blocking
    known = api.query(ACCOUNT, field("subject") == subject, limit=1)
    account = known[0] if known else Record(ACCOUNT, subject=subject)
    if not known:
        # Nobody's until the user is made, which the same request does.
        account.acl = []
    account.data.update({name: profile.get(name) for name in PROFILE})
    account["login"] = current_context()["request_id"]
    api.save(account)
    if account.get("user") is not None:
        api.save(Record(str(account["user"].id), user_fields(account)))


async def newcomer():
    """Returns the account for which the running request makes a user, if it does."""
    context = current_context()
    if context.get("request_tag") not in ("auth", None) or "request_id" not in context:
        return None
    made_now = field("login") == context["request_id"]
    found = await plugin.api.query(ACCOUNT, made_now, limit=1)
    return found[0] if found else None


@plugin.before_save("user")
async def introduce(user, original):
    if original is None and (account := await newcomer()) is not None:
        user.data.update(user_fields(account))


@plugin.after_save("user")
async def hand_over(user, original):
    if original is None and (account := await newcomer()) is not None:
        account["user"] = user.reference
        account.acl = [DirectAccessControlEntry(user.id.key, "read")]
        await plugin.api.save(account)


def user_fields(account):
    return {name: account[name] for name in ("name", "email") if account.get(name)}


@plugin.op("openid:account", user_required=True)
async def account_of_user():
    """What the provider said of the user who asks."""
    user = current_context()["user_id"]
    found = await plugin.api.query(ACCOUNT, field("user") == Record(f"user/{user}").reference)
    if not found:
        raise ApiError("this user signs in otherwise", Code.ResourceNotFound, status=404)
    return {name: found[0].get(name) for name in ("subject", *PROFILE)}


if __name__ == "__main__":
    plugin.run()
