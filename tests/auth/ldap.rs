//! `examples/auth-ldap`: people of a corporate directory sign in.

use std::process::Command;

use serde_json::{Value as Json, json};

use super::directory::{BASE, Directory, SERVICE, SERVICE_PASSWORD};
use super::{ask, assert_erasable, assert_refused, await_ready, client_of};
use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::program::{Program, python_plugin};
use crate::support::server::TestServer;

fn server() -> TestServer {
    TestServer::with(&[("PLUGINS", "LDAP")])
}

fn command(server: &TestServer, directory: &Directory) -> Command {
    let mut command = python_plugin(server, "examples/auth-ldap/plugin.py");
    command
        .env("LDAP_URL", directory.url())
        .env("LDAP_BASE", BASE)
        .env("LDAP_BIND_DN", SERVICE)
        .env("LDAP_BIND_PASSWORD", SERVICE_PASSWORD)
        .env("LDAP_ROLES", "staff,boss");
    command
}

fn start(server: &TestServer, directory: &Directory) -> Program {
    let plugin = Program::start(&mut command(server, directory));
    await_ready(server);
    plugin
}

fn log_in(server: &TestServer, username: &str, password: &str) -> Answer {
    let shown = json!({"username": username, "password": password});
    ask(server, "auth:login", "directory", &shown)
}

/// Returns the directory's data of a user, as the user sees it.
fn person(server: &TestServer, session: &Json) -> Json {
    let client = client_of(server, session);
    client.call("directory:me", json!({})).result()
}

#[test]
fn people_of_the_directory_sign_in_as_the_same_user_each_time() {
    let (mut server, directory) = (server(), Directory::start());
    let plugin = start(&server, &directory);
    let first = log_in(&server, "ada", "password-of-ada").result();
    assert_eq!(first["profile"]["name"], "Ada");
    assert_eq!(first["profile"]["email"], "ada@example.org");
    let again = log_in(&server, "ada", "password-of-ada").result();
    assert_eq!(again["user_id"], first["user_id"]);
    assert_eq!(again["roles"], json!(["staff"]));
    assert_eq!(
        person(&server, &again),
        json!({"name": "Ada", "mail": "ada@example.org", "groups": ["chess", "staff"]})
    );
    let me = client_of(&server, &again).call("me", json!({})).result();
    assert_eq!(me["user_id"], first["user_id"]);
    let ben = log_in(&server, "ben", "password-of-ben").result();
    assert_ne!(ben["user_id"], first["user_id"]);
    assert_eq!(ben["profile"]["name"], "Ben Bitdiddle");
    assert!(ben["profile"].get("email").is_none(), "{ben}");

    drop(plugin);
    server.restart();
    let _plugin = start(&server, &directory);
    let after = log_in(&server, "ada", "password-of-ada").result();
    assert_eq!(after["user_id"], first["user_id"]);
}

#[test]
fn whoever_is_not_in_the_directory_is_refused() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let long = "x".repeat(300);
    for (username, password) in [
        ("ada", "password-of-ben"),
        ("ada", "PASSWORD-OF-ADA"),
        // The directory itself would accept this as an anonymous bind.
        ("ada", ""),
        ("", "password-of-ada"),
        ("", ""),
        ("nobody", "password-of-ada"),
        ("nopassword", "password"),
        ("nopassword", ""),
        // Names that could turn the filter into another one.
        ("*", "password-of-ada"),
        ("a*", "password-of-ada"),
        ("ada)(objectClass=*", "password-of-ada"),
        ("ada)(|(uid=*)", "password-of-ada"),
        ("\\61da", "password-of-ada"),
        ("ada\0", "password-of-ada"),
        (&long, "password-of-ada"),
        ("ada", &long),
        // Nobody can say whose password this is.
        ("twin", "password-of-twins"),
    ] {
        let what = format!("{username:?} with {password:?}");
        assert_refused(&log_in(&server, username, password), &what);
    }
    for shown in [
        json!({}),
        json!({"username": "ada"}),
        json!({"username": ["ada"], "password": "password-of-ada"}),
        json!({"username": "ada", "password": {"$ne": null}}),
        json!({"username": true, "password": true}),
    ] {
        let refused = ask(&server, "auth:login", "directory", &shown);
        assert_refused(&refused, &shown.to_string());
    }
    let users = Client::master(&server).query("user", json!([]));
    assert_eq!(
        users,
        Vec::<Json>::new(),
        "who was refused has left nothing"
    );
}

#[test]
fn names_and_passwords_may_have_any_characters() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let session = log_in(&server, "o*dd(1)", "pässwörd* ").result();
    assert_eq!(session["profile"]["name"], "O,dd (1*)");
    assert_eq!(person(&server, &session)["groups"], json!(["chess"]));
}

#[test]
fn signing_up_brings_a_profile_and_happens_once() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let body = json!({
        "provider": "directory",
        "provider_auth_data": {"username": "ada", "password": "password-of-ada"},
        "profile": {"motto": "m", "name": "the Countess"},
    });
    let client = Client::anonymous(&server);
    let made = client.call("auth:signup", body.clone()).result();
    assert_eq!(made["profile"]["motto"], "m");
    assert_eq!(made["profile"]["name"], "Ada");
    let twice = client.call("auth:signup", body);
    assert_eq!((twice.status, twice.code()), (409, 109));
    let session = log_in(&server, "ada", "password-of-ada").result();
    assert_eq!(session["user_id"], made["user_id"]);
    assert_eq!(session["profile"]["motto"], "m");

    // A user who signed up in another way has nothing to do with the directory.
    let other = Client::signed_up(&server, "carl");
    let refused = other.call("directory:me", json!({}));
    assert_eq!((refused.status, refused.code()), (404, 110));
}

#[test]
fn what_changes_in_the_directory_is_taken_over_at_the_next_login() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let first = log_in(&server, "ben", "password-of-ben").result();
    directory.change(
        "dn: cn=staff,ou=groups,dc=example,dc=org\n\
         changetype: modify\n\
         delete: member\n\
         member: uid=ben,ou=people,dc=example,dc=org\n\
         \n\
         dn: uid=ben,ou=people,dc=example,dc=org\n\
         changetype: modify\n\
         replace: userPassword\n\
         userPassword: fresh-password\n\
         -\n\
         replace: displayName\n\
         displayName: Benjamin\n\
         \n\
         dn: uid=ben,ou=people,dc=example,dc=org\n\
         changetype: modrdn\n\
         newrdn: uid=benjamin\n\
         deleteoldrdn: 1\n",
    );
    assert_refused(&log_in(&server, "ben", "password-of-ben"), "the old name");
    assert_refused(
        &log_in(&server, "benjamin", "password-of-ben"),
        "the old password",
    );
    let second = log_in(&server, "benjamin", "fresh-password").result();
    assert_eq!(second["user_id"], first["user_id"]);
    assert_eq!(second["profile"]["name"], "Benjamin");
    assert_eq!(person(&server, &second)["groups"], json!([]));
    assert!(
        second.get("roles").is_none_or(|roles| *roles == json!([])),
        "{second}"
    );
}

#[test]
fn groups_are_not_for_their_members_to_write_nor_for_others_to_read() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let session = log_in(&server, "ada", "password-of-ada").result();
    let ada = client_of(&server, &session);
    let found = ada.query("directory_person", json!([]));
    assert_eq!(found.len(), 1);
    let id = found[0]["_id"].clone();
    let forged = json!({"records": [{"_id": id, "groups": ["boss"]}]});
    assert_eq!(ada.call("record:save", forged).result()[0]["code"], 102);
    let session = log_in(&server, "ben", "password-of-ben").result();
    let others = client_of(&server, &session).query("directory_person", json!([]));
    assert!(
        others.iter().all(|person| person["_id"] != id),
        "{others:?}"
    );
}

#[test]
fn nobody_makes_himself_a_member_of_groups() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let eve = Client::signed_up(&server, "eve");
    let user = json!({"$type": "ref", "$id": format!("user/{}", eve.user.clone().unwrap())});
    let forged = json!({"_id": "directory_person/x", "groups": ["staff"], "user": user});
    let refused = eve.call("record:save", json!({"records": [forged]}));
    assert_eq!(refused.result()[0]["code"], 102);
    assert_eq!(eve.call("directory:me", json!({})).code(), 110);
}

#[test]
fn of_many_first_logins_at_once_comes_one_person_who_can_lose_a_role() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let log_in = || log_in(&server, "ada", "password-of-ada");
    let ids: Vec<Json> = std::thread::scope(|scope| {
        let logins: Vec<_> = (0..6).map(|_| scope.spawn(log_in)).collect();
        let done = logins.into_iter().map(|login| login.join().unwrap());
        done.map(|answer| answer.result()["user_id"].clone())
            .collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let session = eventually("a login shows the roles", || {
        let session = log_in().result();
        (session["roles"] == json!(["staff"])).then_some(session)
    });
    assert_eq!(session["profile"]["name"], "Ada");
    let people = Client::master(&server).query("directory_person", json!([]));
    assert_eq!(people.len(), 1, "{people:?}");
    directory.change(
        "dn: cn=staff,ou=groups,dc=example,dc=org\n\
         changetype: modify\n\
         delete: member\n\
         member: uid=ada,ou=people,dc=example,dc=org\n",
    );
    let session = log_in().result();
    assert!(
        session.get("roles").is_none_or(|roles| *roles == json!([])),
        "{session}"
    );
    assert_eq!(person(&server, &session)["groups"], json!(["chess"]));
}

#[test]
fn whose_address_another_user_has_signs_in_without_it() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let taken = |name: &str, email: &str| {
        let data = json!({"username": name, "email": email});
        let body = json!({"auth_data": data, "password": "p4ssword-of-some-length"});
        Client::anonymous(&server)
            .call("auth:signup", body)
            .result()
    };
    taken("mallory", "ada@example.org");
    let ada = log_in(&server, "ada", "password-of-ada").result();
    assert_eq!(
        (&ada["profile"]["name"], &ada["profile"]["email"]),
        (&json!("Ada"), &Json::Null)
    );
    assert_eq!(person(&server, &ada)["mail"], "ada@example.org");
    log_in(&server, "ben", "password-of-ben").result();
    taken("trudy", "ben@example.org");
    directory.change(
        "dn: uid=ben,ou=people,dc=example,dc=org\n\
         changetype: modify\n\
         replace: mail\n\
         mail: ben@example.org\n",
    );
    let ben = log_in(&server, "ben", "password-of-ben").result();
    assert_eq!(person(&server, &ben)["mail"], "ben@example.org");
    assert!(ben["profile"].get("email").is_none(), "{ben}");
}

#[test]
fn a_person_can_be_erased_right_after_the_first_login() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let first = log_in(&server, "ada", "password-of-ada").result();
    assert_erasable(&Client::master(&server), &first, "directory_person");
    let second = log_in(&server, "ada", "password-of-ada").result();
    assert_ne!(second["user_id"], first["user_id"]);
    assert_eq!(person(&server, &second)["name"], "Ada");
}

#[test]
fn who_was_erased_comes_back_as_somebody_new() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let first = log_in(&server, "ada", "password-of-ada").result();
    let master = Client::master(&server);
    let erase = json!({"user": first["user_id"], "why": "asked for"});
    assert_eq!(master.call("erase:user", erase).code(), 0);
    let second = log_in(&server, "ada", "password-of-ada").result();
    assert_ne!(second["user_id"], first["user_id"]);
    assert_eq!(second["profile"]["email"], "ada@example.org");
    assert_eq!(person(&server, &second)["name"], "Ada");
    let old = json!({"ids": [format!("user/{}", first["user_id"].as_str().unwrap())]});
    let old = master.call("record:fetch", old).result();
    assert_eq!(old[0].get("email"), None, "{old}");
}

#[test]
fn who_is_locked_out_gets_no_roles_meanwhile() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let ben = log_in(&server, "ben", "password-of-ben").result();
    let master = Client::master(&server);
    let lock = json!({"auth_id": ben["user_id"], "disabled": true});
    assert_eq!(master.call("auth:disable:set", lock).code(), 0);
    directory.change(
        "dn: uid=ben,ou=people,dc=example,dc=org\n\
         changetype: modify\n\
         replace: displayName\n\
         displayName: Benjamin\n",
    );
    assert_eq!(log_in(&server, "ben", "password-of-ben").code(), 127);
    let people = master.query("directory_person", json!([]));
    assert_eq!(people[0]["name"], "Ben Bitdiddle");
}

#[test]
fn a_name_of_the_directory_is_no_identity() {
    let (server, directory) = (server(), Directory::start());
    let mut command = command(&server, &directory);
    let _plugin = Program::start(command.env("LDAP_ID_ATTRIBUTE", "objectGUID"));
    await_ready(&server);
    let away = log_in(&server, "ada", "password-of-ada");
    assert_eq!((away.status, away.code()), (503, 118));
}

#[test]
fn nobodys_password_is_wrong_because_the_directory_is_away() {
    let (server, mut directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    directory.stop();
    let away = log_in(&server, "ada", "password-of-ada");
    assert_eq!((away.status, away.code()), (503, 118));
    directory.start_again();
    log_in(&server, "ada", "password-of-ada").result();
}

#[test]
fn passwords_travel_only_to_the_directory_whose_certificate_is_known() {
    for (authority, is_known) in [("ca.pem", true), ("stranger.pem", false)] {
        let (server, directory) = (server(), Directory::start());
        let mut command = command(&server, &directory);
        command.env("LDAP_CA_FILE", directory.path(authority));
        let _plugin = Program::start(&mut command);
        await_ready(&server);
        let answer = log_in(&server, "ada", "password-of-ada");
        let expected = if is_known { (200, 0) } else { (503, 118) };
        assert_eq!(
            (answer.status, answer.code()),
            expected,
            "{}",
            answer.json()
        );
    }
}

/// The type of users has a default, which is open; a user has closed their own record.
#[test]
fn a_login_keeps_a_record_closed_that_its_user_has_closed() {
    let (server, directory) = (server(), Directory::start());
    let _plugin = start(&server, &directory);
    let first = log_in(&server, "ada", "password-of-ada").result();
    let client = client_of(&server, &first);
    let id = format!("user/{}", first["user_id"].as_str().unwrap());
    client.save(&id, json!({"_access": [], "name": "me"}));
    let open = json!([{"public": true, "level": "read"}]);
    let default = json!({"type": "user", "default_access": open});
    let master = Client::master(&server);
    master.call("schema:default_access", default).result();
    let again = log_in(&server, "ada", "password-of-ada").result();
    assert_eq!(again["profile"]["name"], "Ada");
    let user = master.call("record:fetch", json!({"ids": [id]})).result();
    assert_eq!(
        (&user[0]["name"], &user[0]["_access"]),
        (&json!("Ada"), &json!([]))
    );
}
