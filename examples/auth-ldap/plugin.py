"""Signs people in who have a name and a password in the company's directory."""

import logging
import os

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
    ca_file=os.environ.get("LDAP_CA_FILE"),
)
# Groups that become roles of the same name; access lists know roles.
ROLES = [name for name in os.environ.get("LDAP_ROLES", "").split(",") if name]

# What we know of a person. Users may read their own, and nobody may write it: what a user's own
# record says of his groups, he could have written himself.
PERSON = "directory_person"


@plugin.event("before-plugins-ready")
async def make_types():
    fields = [{"name": name, "type": "string"} for name in ("entry", "login", "name", "mail")]
    fields += [{"name": "groups", "type": "json"}, {"name": "user", "type": "ref(user)"}]
    user = [{"name": "name", "type": "string"}, {"name": "email", "type": "string"}]
    types = {PERSON: {"fields": fields}, "user": {"fields": user}}
    await plugin.api.send_action("schema:create", {"record_types": types})


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
    known = api.query(PERSON, field("entry") == person.id, limit=1)
    record = known[0] if known else Record(PERSON, entry=person.id)
    if not known:
        # Nobody's until the user is made, which the same request does.
        record.acl = []
    record.data.update(name=person.name, mail=person.mail, groups=person.groups)
    record["login"] = current_context()["request_id"]
    api.save(record)
    if record.get("user") is not None:
        user_id = record["user"].id
        api.save(Record(str(user_id), user_fields(record)))
        for action, payload in role_changes(record, user_id.key):
            api.send_action(action, payload)


async def newcomer():
    """Returns the person for whom the running request makes a user, if it does."""
    context = current_context()
    if context.get("request_tag") not in ("auth", None) or "request_id" not in context:
        return None
    found = await plugin.api.query(PERSON, field("login") == context["request_id"], limit=1)
    return found[0] if found else None


@plugin.before_save("user")
async def introduce(user, original):
    if original is None and (person := await newcomer()) is not None:
        user.data.update(user_fields(person))


@plugin.after_save("user")
async def hand_over(user, original):
    if original is None and (person := await newcomer()) is not None:
        person["user"] = user.reference
        person.acl = [DirectAccessControlEntry(user.id.key, "read")]
        await plugin.api.save(person)
        for action, payload in role_changes(person, user.id.key):
            await plugin.api.send_action(action, payload)


def user_fields(person):
    fields = {"name": person.get("name"), "email": person.get("mail")}
    return {name: value for name, value in fields.items() if value}


def role_changes(person, user_id):
    """Returns the actions after which a user has the roles of his groups, and no other of them."""
    groups = person.get("groups") or []
    for action, roles in (
        ("role:assign", [role for role in ROLES if role in groups]),
        ("role:revoke", [role for role in ROLES if role not in groups]),
    ):
        if roles:
            yield action, {"roles": roles, "users": [user_id]}


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
