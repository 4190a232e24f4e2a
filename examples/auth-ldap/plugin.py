"""Signs people in with their name and password in the company's directory."""

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

# What we know about a person. Users can read their own record, but nobody can create or write one:
# users can write their own user record, so its groups would prove nothing.
PERSON = "directory_person"
# A first login in progress: its id is the request's, and it says for whom a user is created. It
# holds a plain id, because what a reference names cannot be erased while the reference exists.
LOGIN = "directory_login"
# A role that nobody has, so that only the plugin, with the master key, can create such records.
NOBODY = "nobody-but-the-ldap-plugin"


@plugin.event("before-plugins-ready")
async def make_types():
    fields = [{"name": name, "type": "string"} for name in ("entry", "name", "mail")]
    fields += [{"name": "groups", "type": "json"}, {"name": "user", "type": "ref(user)"}]
    user = [{"name": "name", "type": "string"}, {"name": "email", "type": "string"}]
    login = [{"name": "person_id", "type": "string"}]
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
    """Stores what the directory says, and updates the user if they are known."""
    api = plugin.api.blocking
    record = kept(person.id)
    user = record.get("user")
    try:
        if user is not None and not is_here(user.id.key):
            # Erased: the person who signs in now is a new user.
            user = record["user"] = None
    except SkygearException as refusal:
        if refusal.code == Code.UserDisabled:
            # The server rejects this user next; nothing is changed before that.
            return
        raise
    # It belongs to nobody until the user is created, which the same request does.
    record.acl = [DirectAccessControlEntry(user.id.key, "read")] if user is not None else []
    record.data.update(name=person.name, mail=person.mail, groups=person.groups)
    api.save(record)
    if user is not None:
        bring_up_to_date(user, record)
        return
    # If several first logins run at once, any of them may be the one that creates the user.
    login = Record(f"{LOGIN}/{current_context()['request_id']}", person_id=str(record.id))
    login.acl = []
    api.save(login)


def kept(entry):
    """Returns the stored record of a person. Its id is derived from the entry, so there is one
    record, however many logins run at once."""
    api = plugin.api.blocking
    new = Record(f"{PERSON}/{hashlib.sha256(entry.encode()).hexdigest()[:32]}", entry=entry)
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


def bring_up_to_date(user, person):
    """Gives a user the roles of their groups, and then updates name and address."""
    give_roles(user, person)
    try:
        # Only if it exists: the user may be erased meanwhile. Its access list stays.
        plugin.api.blocking.save(Record(str(user.id), user_fields(person, user.id)), if_=[])
    except ApiError as error:
        # This must not make the login fail.
        log.warning("%s was not updated: %s", user.id, error)


def newcomer():
    """Returns the person for whom the running request creates a user, or nothing."""
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
    return api.fetch(login["person_id"])


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
    """Deletes old login records, whether or not their logins created a user."""
    api = plugin.api.blocking
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    for login in api.query(LOGIN, field("_created_at") < yesterday, limit=1000):
        api.delete(login)


def user_fields(person, user_id):
    """Returns the fields of a person's user record. If another user has the address, it is left
    out: two users cannot sign in with the same one, and nobody should be locked out by it."""
    name, mail = person.get("name"), person.get("mail")
    fields = {"name": name} if name else {}
    if mail:
        others = plugin.api.blocking.query("user", field("email") == mail, limit=1)
        if not others or others[0].id == user_id:
            fields["email"] = mail
    return fields


def give_roles(user, person):
    """Makes sure that a user has the roles of their groups, and no others among `ROLES`."""
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
    """Returns what the directory said about the asking user at their last login."""
    user = Record(f"user/{current_context()['user_id']}").reference
    found = await plugin.api.query(PERSON, field("user") == user, limit=1)
    if not found:
        raise ApiError("this user signs in another way", Code.ResourceNotFound, status=404)
    return {name: found[0].get(name) for name in ("name", "mail", "groups")}


if __name__ == "__main__":
    plugin.run()
