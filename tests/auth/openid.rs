//! `examples/auth-openid`: people sign in with a token of an `OpenID` provider.

use serde_json::{Value as Json, json};

use super::{ask, assert_erasable, assert_refused, await_ready, client_of};
use crate::support::client::{Answer, Client, send};
use crate::support::eventually;
use crate::support::program::{Program, python, python_plugin, repository};
use crate::support::server::TestServer;

/// The provider, our server, and the plugin between them.
struct World {
    provider: Option<Program>,
    issuer: String,
    server: TestServer,
    _plugin: Program,
}

impl World {
    fn start() -> Self {
        let mut provider = python();
        provider.arg(repository("tests/auth/openid_server.py"));
        let (provider, issuer) = Program::start_and_wait(&mut provider);
        let server = TestServer::with(&[("PLUGINS", "OPENID")]);
        let mut plugin = python_plugin(&server, "examples/auth-openid/plugin.py");
        plugin
            .env("OPENID_ISSUER", &issuer)
            .env("OPENID_CLIENT_ID", "app")
            .env("OPENID_CLIENT_SECRET", "secret-of-app");
        let plugin = Program::start(&mut plugin);
        await_ready(&server);
        Self {
            provider: Some(provider),
            issuer,
            server,
            _plugin: plugin,
        }
    }

    /// Tells the provider to do something; returns its answer.
    fn tell(&self, path: &str, order: &Json) -> Json {
        let url = format!("{}/test/{path}", self.issuer);
        let body = serde_json::to_vec(order).unwrap();
        send("POST", &url, &[], Some(body)).unwrap().json()
    }

    /// Makes the provider issue tokens: an ID token and an access token.
    fn mint(&self, order: Json) -> Json {
        self.tell("mint", &order)
    }

    fn log_in(&self, shown: &Json) -> Answer {
        ask(&self.server, "auth:login", "openid", shown)
    }

    fn refuse(&self, shown: &Json, what: &str) {
        assert_refused(&self.log_in(shown), what);
    }
}

fn only(tokens: &Json, name: &str) -> Json {
    json!({name: tokens[name]})
}

#[test]
fn any_good_token_of_a_person_signs_the_same_user_in() {
    let world = World::start();
    let claims = json!({"name": "Ada", "email": "ada@example.org", "email_verified": true});
    world.tell("person", &json!({"sub": "ada-7", "claims": claims}));
    let tokens = world.mint(json!({"sub": "ada-7"}));
    let first = world.log_in(&only(&tokens, "id_token")).result();
    assert_eq!(first["profile"]["name"], "Ada");
    assert_eq!(first["profile"]["email"], "ada@example.org");
    for shown in [only(&tokens, "access_token"), tokens.clone()] {
        let again = world.log_in(&shown).result();
        assert_eq!(again["user_id"], first["user_id"], "{shown}");
    }
    let account = client_of(&world.server, &first).call("openid:account", json!({}));
    assert_eq!(account.result()["subject"], "ada-7");

    // A new name at the provider, and an unverified e-mail address.
    let claims = json!({"name": "Ada L.", "email": "boss@example.org", "email_verified": false});
    world.tell("person", &json!({"sub": "ada-7", "claims": claims}));
    let tokens = world.mint(json!({"sub": "ada-7"}));
    let later = world.log_in(&only(&tokens, "access_token")).result();
    assert_eq!(later["user_id"], first["user_id"]);
    assert_eq!(later["profile"]["name"], "Ada L.");
    assert_eq!(later["profile"]["email"], "ada@example.org");

    let ben = world.mint(json!({"sub": "ben"}));
    let ben = world.log_in(&ben).result();
    assert_ne!(ben["user_id"], first["user_id"]);
}

#[test]
fn signing_up_happens_once() {
    let world = World::start();
    let tokens = world.mint(json!({"sub": "ada"}));
    let body = json!({
        "provider": "openid",
        "provider_auth_data": tokens,
        "profile": {"motto": "m"},
    });
    let client = Client::anonymous(&world.server);
    let made = client.call("auth:signup", body.clone()).result();
    assert_eq!(made["profile"]["motto"], "m");
    assert_eq!(client.call("auth:signup", body).code(), 109);
    let session = world.log_in(&only(&tokens, "access_token")).result();
    assert_eq!(session["user_id"], made["user_id"]);
}

#[test]
fn tokens_that_are_not_good_here_are_refused() {
    let world = World::start();
    let good = world.mint(json!({"sub": "ada"}));
    for (order, what) in [
        (json!({"sub": "ada", "lifetime": -60}), "expired"),
        (json!({"sub": "ada", "aud": "other"}), "of another app"),
        (
            json!({"sub": "ada", "claims": {"aud": ["app", "other"]}}),
            "of several apps",
        ),
        (
            json!({"sub": "ada", "claims": {"azp": "other"}}),
            "given to another app",
        ),
        (
            json!({"sub": "ada", "claims": {"iss": "http://evil.example"}}),
            "of another provider",
        ),
        (json!({"sub": "ada", "claims": {"exp": null}}), "for ever"),
        (json!({"sub": "ada", "claims": {"sub": ""}}), "nobody's"),
        (
            json!({"sub": "ada", "forged": true}),
            "signed by somebody else",
        ),
        (json!({"sub": "ada", "alg": "none"}), "not signed"),
        (
            json!({"sub": "ada", "alg": "HS256"}),
            "signed with the public key",
        ),
    ] {
        let tokens = world.mint(order);
        world.refuse(&only(&tokens, "id_token"), what);
    }
    for (order, what) in [
        (json!({"sub": "ada", "lifetime": -60}), "expired access"),
        (
            json!({"sub": "ada", "aud": "other"}),
            "access given to another app",
        ),
    ] {
        let tokens = world.mint(order);
        world.refuse(&only(&tokens, "access_token"), what);
    }
    let revoked = world.mint(json!({"sub": "ada"}));
    world.tell("revoke", &only(&revoked, "access_token"));
    world.refuse(&only(&revoked, "access_token"), "revoked access");
    world.refuse(&revoked, "revoked access beside an id");

    let ben = world.mint(json!({"sub": "ben"}));
    let mixed = json!({"id_token": good["id_token"], "access_token": ben["access_token"]});
    world.refuse(&mixed, "tokens of two people");
    let id_token = good["id_token"].as_str().unwrap();
    let bent = format!("{}A", id_token.get(..id_token.len() - 2).unwrap());
    for shown in [
        json!({}),
        json!({"access_token": ""}),
        json!({"access_token": 7}),
        json!({"access_token": "nonsense"}),
        json!({"access_token": "a\r\nX-Evil: 1"}),
        json!({"access_token": "ü"}),
        json!({"id_token": "a.b.c"}),
        json!({"id_token": bent}),
        json!({"id_token": id_token, "nonce": "of another login"}),
    ] {
        world.refuse(&shown, &shown.to_string());
    }
    let users = Client::master(&world.server).query("user", json!([]));
    assert_eq!(
        users,
        Vec::<Json>::new(),
        "who was refused has left nothing"
    );
    world.log_in(&good).result();
}

#[test]
fn new_keys_of_the_provider_are_found_but_not_at_a_strangers_pace() {
    let world = World::start();
    let old = world.mint(json!({"sub": "ada"}));
    let first = world.log_in(&old).result();
    world.tell("rotate", &json!({"kid": "second", "alg": "ES256"}));
    let new = world.mint(json!({"sub": "ada", "kid": "second"}));
    let mut num_tries = 0;
    let session = eventually("the new key is found", || {
        num_tries += 1;
        let answer = world.log_in(&only(&new, "id_token"));
        (answer.status == 200).then(|| answer.result())
    });
    assert_eq!(session["user_id"], first["user_id"]);
    let looked = world.tell("count", &json!({}))["/keys"].as_u64().unwrap();
    assert_eq!(looked, 2, "in {num_tries} tries");
    world.refuse(
        &only(&old, "id_token"),
        "signed with a key that was withdrawn",
    );
}

#[test]
fn nobodys_token_is_bad_because_the_provider_is_away() {
    let mut world = World::start();
    let tokens = world.mint(json!({"sub": "ada"}));
    world.log_in(&only(&tokens, "access_token")).result();
    world.provider = None;
    // The second token makes the plugin ask for new keys, without success.
    for shown in [
        only(&tokens, "access_token"),
        only(&tokens, "id_token"),
        only(&tokens, "id_token"),
    ] {
        let away = world.log_in(&shown);
        assert_eq!((away.status, away.code()), (503, 118), "{shown}");
    }
}

#[test]
fn an_address_is_verified_only_where_that_is_said_of_it() {
    let world = World::start();
    let verified = json!({"email": "old@example.org", "email_verified": true});
    world.tell("person", &json!({"sub": "ada", "claims": verified}));
    let tokens = world.mint(json!({"sub": "ada"}));
    world.tell(
        "person",
        &json!({"sub": "ada", "claims": {"email": "new@example.org"}}),
    );
    let session = world.log_in(&tokens).result();
    assert_eq!(session["profile"]["email"], Json::Null, "{session}");
}

#[test]
fn nobody_says_of_himself_who_he_is_at_the_provider() {
    let world = World::start();
    let eve = Client::signed_up(&world.server, "eve");
    let user = json!({"$type": "ref", "$id": format!("user/{}", eve.user.clone().unwrap())});
    let forged = json!({"_id": "openid_account/x", "subject": "ada", "user": user});
    let refused = eve.call("record:save", json!({"records": [forged]}));
    assert_eq!(refused.result()[0]["code"], 102);
    let ada = world.log_in(&world.mint(json!({"sub": "ada"}))).result();
    assert_ne!(ada["user_id"].as_str(), eve.user.as_deref());
    let account = client_of(&world.server, &ada).call("openid:account", json!({}));
    assert_eq!(account.result()["subject"], "ada");
}

#[test]
fn an_account_can_be_erased_right_after_the_first_login() {
    let world = World::start();
    let tokens = world.mint(json!({"sub": "ada", "claims": {"name": "Ada"}}));
    let first = world.log_in(&tokens).result();
    assert_eq!(first["profile"]["name"], "Ada");
    let master = Client::master(&world.server);
    assert_erasable(&master, &first, "openid_account");
    let second = world.log_in(&tokens).result();
    assert_ne!(second["user_id"], first["user_id"]);
    let account = client_of(&world.server, &second).call("openid:account", json!({}));
    assert_eq!(account.result()["subject"], "ada");
}

/// The type of users has a default, which is open; a user has closed their own record.
#[test]
fn a_login_keeps_a_record_closed_that_its_user_has_closed() {
    let world = World::start();
    let tokens = world.mint(json!({"sub": "ada", "claims": {"name": "Ada"}}));
    let first = world.log_in(&only(&tokens, "id_token")).result();
    let client = client_of(&world.server, &first);
    let id = format!("user/{}", first["user_id"].as_str().unwrap());
    client.save(&id, json!({"_access": [], "name": "me"}));
    let open = json!([{"public": true, "level": "read"}]);
    let default = json!({"type": "user", "default_access": open});
    let master = Client::master(&world.server);
    master.call("schema:default_access", default).result();
    let again = world.log_in(&only(&tokens, "id_token")).result();
    assert_eq!(again["profile"]["name"], "Ada");
    let user = master.call("record:fetch", json!({"ids": [id]})).result();
    assert_eq!(
        (&user[0]["name"], &user[0]["_access"]),
        (&json!("Ada"), &json!([]))
    );
}
