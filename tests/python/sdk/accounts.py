"""Sign-up and login, roles, passwords, and acting for users."""

from skygear.container import SkygearContainer, send_action

from harness import check, refused, result
from world import API_KEY, ENDPOINT, administrator, person, unique


@check("accounts: a user signs up, logs in, and asks who it is")
def _():
    name = unique("ada")
    signed_up = result(
        SkygearContainer().send_action(
            "auth:signup",
            {"auth_data": {"username": name}, "password": "pw", "profile": {"motto": "m"}},
        )
    )
    assert signed_up["profile"]["username"] == name
    assert signed_up["profile"]["motto"] == "m"
    logged_in = result(
        SkygearContainer().send_action(
            "auth:login", {"auth_data": {"username": name}, "password": "pw"}
        )
    )
    assert logged_in["user_id"] == signed_up["user_id"]
    container = SkygearContainer(access_token=logged_in["access_token"])
    me = result(container.send_action("me", {}))
    assert me["user_id"] == signed_up["user_id"]


@check("accounts: a wrong password is refused")
def _():
    name = unique("ben")
    auth_data = {"username": name}
    body = {"auth_data": auth_data, "password": "pw"}
    result(SkygearContainer().send_action("auth:signup", body))
    wrong = {"auth_data": auth_data, "password": "guess"}
    error = refused(105, SkygearContainer().send_action("auth:login", wrong))
    assert error["name"] == "InvalidCredentials" and error["message"]


@check("accounts: the function beside the container sends, too")
def _():
    name = unique("cy")
    body = {
        "action": "auth:signup",
        "api_key": API_KEY,
        "auth_data": {"username": name},
        "password": "pw",
    }
    answer = send_action(ENDPOINT.rstrip("/") + "/auth/signup", body)
    assert result(answer)["profile"]["username"] == name


@check("accounts: the master key gives and takes roles")
def _():
    _, user = person("di")
    admin, role = administrator(), unique("editor")
    named = {"users": [user], "roles": [role]}
    assert result(admin.send_action("role:assign", named)) == "OK"
    assert result(admin.send_action("role:get", {"users": [user]})) == {user: [role]}
    assert result(admin.send_action("role:revoke", named)) == "OK"
    assert result(admin.send_action("role:get", {"users": [user]})) == {user: []}


@check("accounts: the client key gives no roles")
def _():
    container, user = person("ed")
    refused(102, container.send_action("role:assign", {"users": [user], "roles": ["x"]}))


@check("accounts: the master key acts for a user")
def _():
    _, user = person("flo")
    me = result(administrator(user).send_action("me", {}))
    assert me["user_id"] == user


@check("accounts: a wrong key is refused")
def _():
    refused(103, SkygearContainer(api_key="wrong").send_action("me", {}))
