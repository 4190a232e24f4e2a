"""Signs people in who have a name and a password in the company's directory."""

import hashlib
import logging
import os
from datetime import datetime, timedelta, timezone

from directory import Directory, DirectoryAway, NotVouchedFor
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

log = logging.getLogger("auth-ldap")
plugin = Plugin("LDAP")
directory = Directory(
    url=os.environ["LDAP_URL"],
    base=os.environ["LDAP_BASE"],
    bind_dn=os.environ.get("LDAP_BIND_DN", ""),
    bind_password=os.environ.get("LDAP_BIND_PASSWORD", ""),
    user_filter=os.environ.get("LDAP_USER_FILTER", Directory.user_filter),
    group_filter=os.environ.get("LDAP_GROUP_FILTER", Directory.group_filter),
    id_attribute=os.environ.get("LDAP_ID_ATTRIBUTE", Directory.id_attribute),
    ca_file=os.environ.get("LDAP_CA_FILE"),
)
# Groups that become roles of the same name; access lists know roles.
ROLES = [name for name in os.environ.get("LDAP_ROLES", "").split(",") if name]

# What we know of a person. Users may read their own, and nobody may make or write one: what a user's
# own record says of his groups, he could have written himself.
PERSON = "directory_person"
# A first login that is under way: its id is the request's, and it says for whom a user is made.
LOGIN = "directory_login"
# A role that nobody has: only the master key makes such records, and that is how we ask.
NOBODY = "nobody-but-the-ldap-plugin"


@plugin.event("before-plugins-ready")
async def make_types():
    fields = [{"name": name, "type": "string"} for name in ("entry", "name", "mail")]
    fields += [{"name": "groups", "type": "json"}, {"name": "user", "type": "ref(user)"}]
    user = [{"name": "name", "type": "string"}, {"name": "email", "type": "string"}]
    login = [{"name": "person", "type": f"ref({PERSON})"}]
    types = {PERSON: {"fields": fields}, LOGIN: {"fields": login}, "user": {"fields": user}}
    await plugin.api.send_action("schema:create", {"record_types": types})
    for name in (PERSON, LOGIN):
        await plugin.api.send_action("schema:access", {"type": name, "create_roles": [NOBODY]})


@plugin.provides("auth", "directory", timeout=20)
class DirectoryProvider(AuthProvider):
    """`auth_data` is `{"username": …, "password": …}`."""

    def login(self, auth_data):
        try:
            person = directory.verify(auth_data.get("username"), auth_data.get("password"))
        except NotVouchedFor as reason:
            log.info("refused: %s", reason)
            raise SkygearException("no such name and password", InvalidCredentials) from None
        except DirectoryAway as reason:
            log.error("the directory cannot be asked: %s", reason)
            raise SkygearException("try again later", Code.PluginUnavailable) from None
        remember(person)
        kept = {"name": person.name, "mail": person.mail, "groups": person.groups}
        return {"principal_id": person.id, "auth_data": kept}


def remember(person):
    """Keeps what the directory says, and brings a user who is known up to date."""
    api = plugin.api.blocking
    record = kept(person.id)
    user = record.get("user")
    try:
        if user is not None and not is_here(user.id.key):
            # Erased: what is signed in now is somebody new.
            user = record["user"] = None
    except SkygearException as refusal:
        if refusal.code == Code.UserDisabled:
            # He is refused in a moment, and gets nothing before that.
            return
        raise
    # Nobody's until the user is made, which the same request does.
    record.acl = [DirectAccessControlEntry(user.id.key, "read")] if user is not None else []
    record.data.update(name=person.name, mail=person.mail, groups=person.groups)
    api.save(record)
    if user is not None:
        bring_up_to_date(user, record)
        return
    # Of several first logins at once each may be the one that makes the user.
    login = Record(f"{LOGIN}/{current_context()['request_id']}", person=record.reference)
    login.acl = []
    api.save(login)


def kept(entry):
    """Returns what is kept of a person. The id follows from the entry, so there is one record however
    many logins there are at once."""
    api = plugin.api.blocking
    new = Record(f"{PERSON}/{hashlib.sha256(entry.encode()).hexdigest()[:32]}", entry=entry)
    try:
        found = api.fetch(new.id)
    except ApiError as error:
        if error.code != Code.ResourceNotFound:
            raise
        return new
    if found.owner_id != "_god":
        # Made by somebody else, before it was only us who may.
        api.delete(found)
        return new
    return found


def is_here(user_id):
    """Whether there is a user; raises `UserDisabled` for one who is locked out."""
    try:
        plugin.api.blocking.as_user(user_id).send_action("me")
    except ApiError as error:
        if error.code != Code.ResourceNotFound:
            raise
        return False
    return True


def bring_up_to_date(user, person):
    """Gives a user the roles of his groups, and then his name and address."""
    give_roles(user, person)
    try:
        plugin.api.blocking.save(Record(str(user.id), user_fields(person, user.id)))
    except ApiError as error:
        # A login does not fail because of it.
        log.warning("%s is not brought up to date: %s", user.id, error)


def newcomer():
    """Returns the person for whom the running request makes a user, if it does."""
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
    return api.fetch(login["person"].id)


@plugin.before_save("user")
def introduce(user, original):
    if original is None and (person := newcomer()) is not None:
        user.data.update(user_fields(person, user.id))


@plugin.after_save("user")
def hand_over(user, original):
    if original is None and (person := newcomer()) is not None:
        person["user"] = user.reference
        person.acl = [DirectAccessControlEntry(user.id.key, "read")]
        plugin.api.blocking.save(person)
        give_roles(user, person)


@plugin.every("@daily")
def forget_logins():
    """Takes away what is left of logins that made no user, or have."""
    api = plugin.api.blocking
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    for login in api.query(LOGIN, field("_created_at") < yesterday, limit=1000):
        api.delete(login)


def user_fields(person, user_id):
    """Returns what a user's record says of a person. An address that another user has stays his: two
    cannot sign in with one, and nobody is to be locked out by it."""
    name, mail = person.get("name"), person.get("mail")
    fields = {"name": name} if name else {}
    if mail:
        others = plugin.api.blocking.query("user", field("email") == mail, limit=1)
        if not others or others[0].id == user_id:
            fields["email"] = mail
    return fields


def give_roles(user, person):
    """Sees to it that a user has the roles of his groups, and no other of them."""
    groups = person.get("groups") or []
    for action, roles in (
        ("role:assign", [role for role in ROLES if role in groups]),
        ("role:revoke", [role for role in ROLES if role not in groups]),
    ):
        if roles:
            users = [user.id.key]
            plugin.api.blocking.send_action(action, {"roles": roles, "users": users})


@plugin.op("directory:me", user_required=True)
async def person_of_user():
    """What the directory said of the user who asks, at his last login."""
    user = Record(f"user/{current_context()['user_id']}").reference
    found = await plugin.api.query(PERSON, field("user") == user, limit=1)
    if not found:
        raise ApiError("this user signs in otherwise", Code.ResourceNotFound, status=404)
    return {name: found[0].get(name) for name in ("name", "mail", "groups")}


if __name__ == "__main__":
    plugin.run()
