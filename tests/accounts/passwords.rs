//! The password policy where it needs a server: history, strength, expiry; and the throttling of
//! tries.

use serde_json::{Map, Value as Json, json};

use super::{change_password, log_in, refusal, sign_up};
use crate::support::client::{Answer, Client, send};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

const FIRST: &str = "secret-of-the-test";

#[test]
fn a_password_of_the_history_is_refused_also_after_a_restart() {
    let mut server = TestServer::with(&[("USER_AUDIT_PW_HISTORY_SIZE", "2")]);
    let mut ada = Client::signed_up(&server, "ada");
    let reused = (126, json!("PasswordReused"));
    assert_eq!(refusal(&change_password(&mut ada, FIRST, FIRST)), reused);
    change_password(&mut ada, FIRST, "second").result();
    server.restart();
    let mut ada = ada.at(&server);
    assert_eq!(refusal(&change_password(&mut ada, "second", FIRST)), reused);
    change_password(&mut ada, "second", "third").result();
    // Only two count, including the present one.
    let back = change_password(&mut ada, "third", FIRST);
    assert_eq!(back.result()["user_id"], json!(ada.user));
    assert_eq!(
        log_in(&Client::anonymous(&server), "ada", FIRST).status,
        200
    );
}

#[test]
fn what_is_known_of_the_user_makes_a_password_weak() {
    let server = TestServer::with(&[("USER_AUDIT_PW_MIN_GUESSABLE_LEVEL", "3")]);
    let anyone = Client::anonymous(&server);
    let refused = sign_up(&anyone, "manabimashou", "manabimashou");
    let error = refused.json()["error"].clone();
    assert_eq!(refused.status, 500);
    assert_eq!(error["info"]["reason"], "PasswordBelowGuessableLevel");
    assert_eq!(
        (&error["info"]["min_level"], &error["info"]["pw_level"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(sign_up(&anyone, "ada", "manabimashou").status, 200);
}

#[test]
fn an_old_password_keeps_its_user_out_until_it_is_changed() {
    let server = TestServer::with(&[("USER_AUDIT_PW_EXPIRY_DAYS", "30")]);
    let master = Client::master(&server);
    let hash = bcrypt::hash("old enough", 4).unwrap();
    let user = json!({"id": "ada-1", "auth_data": {"username": "ada"}, "password_hash": hash,
                      "token_valid_since": "2020-01-01T00:00:00Z"});
    let imported = master
        .call("auth:import", json!({"users": [user]}))
        .result();
    assert_eq!(imported, json!([{"_type": "user", "_id": "ada-1"}]));

    let mut ada = Client::anonymous(&server);
    let session = log_in(&ada, "ada", "old enough").result();
    ada.token = session["access_token"].as_str().map(str::to_owned);
    let expired = ada.call("me", json!({}));
    assert_eq!(
        (expired.status, refusal(&expired)),
        (401, (126, json!("PasswordExpired")))
    );
    // Where a user is optional, the request has no user.
    let read = ada.call("record:query", json!({"record_type": "note"}));
    assert_eq!(read.result(), json!([]));
    change_password(&mut ada, "old enough", "a new one").result();
    assert_eq!(ada.call("me", json!({})).result()["user_id"], "ada-1");
}

#[test]
fn tries_are_slowed_down_per_address_and_per_account() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let anyone = Client::anonymous(&server);
    let mut ada = Client::signed_up(&server, "ada");
    let refused = (0..30).find_map(|_| {
        let answer = change_password(&mut ada, "wrong", "other");
        (answer.status != 401).then_some(answer)
    });
    let refused = refused.unwrap();
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    // The address gets a try back every three seconds, on a slow machine even between two tries.
    let nobody = |number: u8| log_in(&anyone, &format!("nobody{number}"), "x").status == 429;
    assert!((0..30).any(nobody), "each account is another");
    assert!((0..5).any(|_| sign_up(&anyone, "ada", FIRST).status == 429));
    // A caller with the master key does not guess, but may be tricked into it.
    let master = Client::master(&server);
    let body = json!({"auth_id": ada.user, "password": "x"});
    let refused = (0..30).find(|_| master.call("auth:reset_password", body.clone()).status == 429);
    assert!(refused.is_some());
    assert_eq!(sign_up(&master, "eve", FIRST).status, 200);
    assert!(!server.output().contains(MASTER_KEY));
}

/// v1's Android SDK repeats each request that is answered with 401.
#[test]
fn the_same_wrong_password_twice_costs_one_try() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let anyone = Client::anonymous(&server);
    let mut ada = Client::signed_up(&server, "ada");
    for number in 0..5 {
        for _ in 0..2 {
            let guess = format!("guess {number}");
            assert_eq!(log_in(&anyone, "ada", &guess).status, 401, "{number}");
            assert_eq!(
                change_password(&mut ada, &guess, "x").status,
                401,
                "{number}"
            );
        }
    }
    // Tries come back with time, on a slow machine even between two guesses.
    let is_refused =
        |number: &i32| log_in(&anyone, "ada", &format!("guess {number}")).status == 429;
    assert!((5..30).any(|number| is_refused(&number)));
    assert_eq!(log_in(&anyone, "ada", FIRST).status, 429);
}

#[test]
fn who_knows_his_password_takes_no_tries_from_others() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let anyone = Client::anonymous(&server);
    Client::signed_up(&server, "ada");
    for number in 0..30 {
        assert_eq!(log_in(&anyone, "ada", FIRST).status, 200, "{number}");
    }
}

/// For example a class that starts an app for the first time, behind one address.
#[test]
fn signing_up_takes_no_tries_from_those_who_know_their_passwords() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let anyone = Client::anonymous(&server);
    Client::signed_up(&server, "ada");
    for number in 0..30 {
        let anonymous = anyone.call("auth:signup", json!({}));
        assert_eq!(anonymous.status, 200, "{number}");
        let name = format!("user{number}");
        assert_eq!(sign_up(&anyone, &name, FIRST).status, 200, "{number}");
    }
    assert_eq!(log_in(&anyone, "ada", FIRST).status, 200);
    // The answer reveals that a name is taken, so this counts as a guess.
    let taken = (0..30).find(|_| sign_up(&anyone, "ada", FIRST).status == 429);
    assert!(taken.is_some());
}

#[test]
fn a_sign_up_that_fails_costs_a_try_only_for_a_name_that_is_taken() {
    let settings = [("AUTH_THROTTLE", "on"), ("USER_AUDIT_PW_MIN_LENGTH", "8")];
    let server = TestServer::with(&settings);
    let anyone = Client::anonymous(&server);
    Client::signed_up(&server, "ada");
    let body = |password: Json, profile: Json| {
        let auth_data = json!({"username": "eve"});
        json!({"auth_data": auth_data, "password": password, "profile": profile})
    };
    for number in 0..15 {
        let weak = sign_up(&anyone, "eve", "short");
        assert_eq!(weak.code(), 126, "{number}");
        for body in [
            body(json!(FIRST), json!("no object")),
            body(json!(5), json!({})),
            body(json!(FIRST), json!({"username": "eve"})),
        ] {
            assert_eq!(anyone.call("auth:signup", body).status, 400, "{number}");
        }
    }
    assert_eq!(log_in(&anyone, "ada", FIRST).status, 200);
    let taken = (0..30).map(|_| sign_up(&anyone, "ada", FIRST));
    let (taken, refused): (Vec<_>, Vec<_>) = taken.partition(|it| it.status != 429);
    assert!(!refused.is_empty() && taken.iter().all(|it| it.code() == 109));
    assert!((0..5).any(|_| log_in(&anyone, "eve", FIRST).status == 429));
}

/// Copies after a name that is taken are refused with it, and reveal nothing themselves.
#[test]
fn a_name_that_is_taken_costs_one_try_however_many_copies_follow() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    Client::signed_up(&server, "ada");
    let eve = Client::signed_up(&server, "eve");
    let id = format!("user/{}", eve.user.clone().unwrap());
    let named = |name: &str| json!({"_id": id, "username": name});
    let mut records = vec![named("ada")];
    records.extend((0..30).map(|number| named(&format!("free{number}"))));
    let saved = eve.call("record:save", json!({"records": records}));
    let codes = saved.result();
    let codes = codes
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["code"].clone());
    assert_eq!(codes.collect::<Vec<_>>(), vec![json!(109); 31]);
    let anyone = Client::anonymous(&server);
    assert_eq!(log_in(&anyone, "ada", "wrong").code(), 105);
    let saved = eve.call("record:save", json!({"records": [named("eve2")]}));
    assert_eq!(saved.result()[0]["username"], "eve2");
}

#[test]
fn saves_reveal_names_that_are_taken_no_faster_than_sign_ups() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let (anyone, master) = (Client::anonymous(&server), Client::master(&server));
    let body = json!({"auth_data": {"email": "ada@example.com"}, "password": FIRST});
    anyone.call("auth:signup", body).result();
    let eve = Client::signed_up(&server, "eve");
    let id = format!("user/{}", eve.user.clone().unwrap());
    let save = |client: &Client, records: Json, is_atomic: bool| {
        let body = json!({"records": records, "atomic": is_atomic});
        client.call("record:save", body)
    };
    let mail = |mail: &str| json!([{"_id": id, "username": "eve", "email": mail}]);
    // A name that is free costs no try, and neither does one that stays.
    for number in 0..30 {
        let saved = save(&eve, mail(&format!("eve{number}@example.com")), false);
        assert_eq!(saved.result()[0]["_type"], "record", "{number}");
    }
    let taken = mail("ADA@example.com");
    let (mut num_told, mut refused) = (0, None);
    while refused.is_none() && num_told < 30 {
        let answer = save(&eve, taken.clone(), num_told % 2 == 0);
        match answer.status {
            429 => refused = Some(answer),
            409 => num_told += 1,
            _ => {
                assert_eq!(answer.result()[0]["code"], 109);
                num_told += 1;
            }
        }
    }
    let refused = refused.unwrap();
    assert!(num_told >= 10, "{num_told}");
    let seconds: u64 = refused.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=3).contains(&seconds), "{seconds}");
    // It is the same bucket, so a sign-up or a login tells no more.
    // Every few seconds a try comes back.
    let is_refused = |ask: &dyn Fn() -> Answer| (0..5).any(|_| ask().status == 429);
    assert!(is_refused(&|| log_in(&anyone, "nobody", "x")));
    // One of many copies, and one of many records.
    let many: Vec<Json> = (0..100)
        .map(|it| json!({"_id": id, "email": format!("{}@example.com", ["ada", "bob"][it % 2])}))
        .collect();
    assert_eq!(save(&eve, json!(many), false).status, 429);
    let other = json!({"_id": "note/1", "text": "x"});
    let both = json!([other, taken[0]]);
    assert!(is_refused(&|| save(&eve, both.clone(), false)));
    // What names nobody goes on, and so does the master key.
    let same = json!([{"_id": id, "username": "EVE", "email": "eve29@example.com", "age": 9}]);
    assert_eq!(save(&eve, same, false).result()[0]["age"], 9);
    for _ in 0..12 {
        let told = save(&master, taken.clone(), false).result();
        assert_eq!(told[0]["code"], 109, "{told}");
    }
}

/// Returns whether tries from many addresses, as many as each has, finally lock the name.
fn is_locked_by_strangers(try_it: impl Fn(&str) -> u16) -> bool {
    let mut places = (2..200).map(|number| format!("198.51.100.{number}"));
    places.any(|place| {
        try_it(&place) == 429 || {
            while try_it(&place) != 429 {}
            false
        }
    })
}

/// Signs in from an address, given by a proxy that the server trusts.
fn log_in_from(server: &TestServer, address: &str, username: &str, password: &str) -> u16 {
    let url = format!("{}/auth/login", server.base_url);
    let headers = [
        ("X-Skygear-API-Key", API_KEY),
        ("X-Forwarded-For", address),
        ("Content-Type", "application/json"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let body = json!({"auth_data": {"username": username}, "password": password});
    let body = Some(body.to_string().into_bytes());
    send("POST", &url, &headers, body).unwrap().status
}

#[test]
fn behind_a_trusted_proxy_everybody_has_tries_of_his_own() {
    for (proxies, is_shared) in [("127.0.0.0/8", false), ("192.0.2.1", true)] {
        let settings = [("AUTH_THROTTLE", "on"), ("TRUSTED_PROXIES", proxies)];
        let server = TestServer::with(&settings);
        let status_of =
            |address: &str, number| log_in_from(&server, address, &format!("nobody{number}"), "x");
        let guess = |number| status_of("203.0.113.1, 198.51.100.1", number) == 429;
        assert!((0..30).any(guess), "{proxies}");
        // An address that the client itself puts there has no effect.
        for written in ["203.0.113.2, 198.51.100.1", "\u{e9}, 198.51.100.1"] {
            // A try can have come back meanwhile.
            let is_refused = (100..105).any(|number| status_of(written, number) == 429);
            assert!(is_refused, "{proxies}: {written}");
        }
        let status = status_of("198.51.100.2", 101);
        assert_eq!(status == 429, is_shared, "{proxies}: {status}");
    }
}

#[test]
fn a_stranger_who_tries_a_name_does_not_lock_its_owner_out() {
    let settings = [("AUTH_THROTTLE", "on"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let server = TestServer::with(&settings);
    Client::signed_up(&server, "ada");
    let try_it = |address: &str| log_in_from(&server, address, "ada", "wrong");
    assert!((0..40).any(|_| try_it("2001:db8::1") == 429));
    // Other addresses of the same network give no more tries.
    assert_eq!(try_it("2001:db8::2"), 429);
    assert_eq!(log_in_from(&server, "192.0.2.1", "Ada", FIRST), 200);
    // Strangers at many addresses finally lock the name, but not for the address that she used
    // before.
    assert!(is_locked_by_strangers(try_it));
    assert_eq!(log_in_from(&server, "192.0.2.1", "ada", FIRST), 200);
}

#[test]
fn who_has_a_name_that_looks_alike_has_no_more_tries() {
    let settings = [("AUTH_THROTTLE", "on"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let server = TestServer::with(&settings);
    // The Kelvin sign is no K: these are two users.
    let twin = "\u{212a}im";
    for name in ["kim", twin] {
        Client::signed_up(&server, name);
    }
    let home = "192.0.2.1";
    assert_eq!(log_in_from(&server, home, twin, FIRST), 200);
    let try_it = |address: &str| log_in_from(&server, address, "kim", "wrong");
    assert!(is_locked_by_strangers(try_it));
    // One try can have come back meanwhile.
    assert!((0..5).any(|_| try_it(home) == 429));
}

#[test]
fn names_that_nobody_has_leave_no_trace() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let anyone = Client::anonymous(&server);
    let many: Map<String, Json> = (0..10_000).map(|it| (it.to_string(), json!(it))).collect();
    for auth_data in [json!({"username": "x".repeat(5000)}), json!(many)] {
        for action in ["auth:login", "auth:signup"] {
            let body = json!({"auth_data": auth_data, "password": FIRST});
            let refused = anyone.call(action, body);
            assert_eq!((refused.status, refused.code()), (400, 108));
            let info = &refused.json()["error"]["info"];
            assert_eq!(info["arguments"], json!(["auth_data"]));
        }
    }
    let throttle = Client::master(&server).health()["throttle"].clone();
    assert_eq!(throttle["num_buckets"], 0, "{throttle}");
    assert_eq!(sign_up(&anyone, &"x".repeat(1000), FIRST).status, 200);
}

#[test]
fn a_users_own_password_is_changed_by_nobody_who_is_locked_out() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let mut ada = Client::signed_up(&server, "ada");
    let body = json!({"auth_id": ada.user, "disabled": true, "message": "", "expiry": ""});
    master.call("auth:disable:set", body).result();
    let refused = change_password(&mut ada, FIRST, "other");
    assert_eq!((refused.status, refused.code()), (403, 127));
    assert!(refused.json()["error"].get("info").is_none());
    let body = json!({"auth_id": ada.user, "disabled": true, "expiry": "2001-02-03T04:05:06.789Z"});
    master.call("auth:disable:set", body).result();
    change_password(&mut ada, FIRST, "other").result();
}
