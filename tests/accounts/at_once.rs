//! Many who sign in at the same time behind one address, such as a class or a company.

use std::thread::JoinHandle;

use serde_json::{Value as Json, json};

use super::{log_in, sign_up};
use crate::plugin::call;
use crate::plugin::worker::Worker;
use crate::support::client::{Answer, Client};
use crate::support::server::TestServer;

const PASSWORD: &str = "secret-of-the-test";
/// More than the attempts of an address.
const MANY: usize = 20;

/// Does something this often at once; returns the statuses.
fn all_at_once(number: usize, ask: impl Fn(usize) -> Answer + Sync) -> Vec<u16> {
    std::thread::scope(|scope| {
        let ask = &ask;
        let asked: Vec<_> = (0..number).map(|it| scope.spawn(move || ask(it))).collect();
        asked
            .into_iter()
            .map(|it| it.join().unwrap().status)
            .collect()
    })
}

#[test]
fn a_class_behind_one_address_signs_up_and_in_at_once() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let anyone = Client::anonymous(&server);
    let name = |number: usize| format!("user{number}");
    let signed_up = all_at_once(MANY, |it| sign_up(&anyone, &name(it), PASSWORD));
    assert_eq!(signed_up, [200; MANY]);
    let signed_in = all_at_once(MANY, |it| log_in(&anyone, &name(it), PASSWORD));
    assert_eq!(signed_in, [200; MANY]);
    // One user with many devices.
    let signed_in = all_at_once(MANY, |_| log_in(&anyone, "user0", PASSWORD));
    assert_eq!(signed_in, [200; MANY]);
}

#[test]
fn guesses_at_once_are_no_more_than_one_after_another() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let anyone = Client::anonymous(&server);
    Client::signed_up(&server, "ada");
    let begun = std::time::Instant::now();
    let guessed = all_at_once(MANY, |it| log_in(&anyone, "ada", &format!("guess {it}")));
    let num_back = usize::try_from(begun.elapsed().as_secs() / 3).unwrap() + 1;
    let num_told = guessed.iter().filter(|status| **status == 401).count();
    assert!((10..=10 + num_back).contains(&num_told), "{guessed:?}");
    let num_refused = guessed.iter().filter(|status| **status == 429).count();
    assert_eq!(num_told + num_refused, MANY, "{guessed:?}");
}

/// The addresses are free, so nobody guesses; meanwhile others sign up.
#[test]
fn a_class_gives_its_mail_addresses_while_it_signs_up() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    let saved = all_at_once(MANY, |number| {
        let own = Client::signed_up(&server, &format!("user{number}"));
        let id = format!("user/{}", own.user.as_ref().unwrap());
        let record = json!({"_id": id, "email": format!("user{number}@example.com")});
        own.call("record:save", json!({"records": [record]}))
    });
    assert_eq!(saved, [200; MANY]);
}

/// A plugin checks passwords for a user with many devices.
#[test]
fn logins_that_the_server_is_too_busy_for_are_no_guesses() {
    let server = TestServer::with(&[("AUTH_THROTTLE", "on")]);
    Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    let mut num_shed = 0;
    for _ in 0..30 {
        // More than passwords can wait for being checked.
        let logged_in = all_at_once(90, |_| log_in(&master, "ada", PASSWORD));
        assert!(!logged_in.contains(&429), "after {num_shed}: {logged_in:?}");
        num_shed += logged_in.iter().filter(|it| **it == 503).count();
        // More than the account has attempts.
        if num_shed > 100 {
            return;
        }
    }
    panic!("only {num_shed} were turned away");
}

fn start_logins(server: &TestServer, number: usize) -> Vec<JoinHandle<Answer>> {
    let body = json!({"provider": "acme", "provider_auth_data": {}});
    let anyone = Client::anonymous(server);
    let ask = |_| call(&anyone, "auth:login", body.clone());
    (0..number).map(ask).collect()
}

fn statuses(asked: Vec<JoinHandle<Answer>>) -> Vec<u16> {
    asked
        .into_iter()
        .map(|it| it.join().unwrap().status)
        .collect()
}

/// A provider that answers only when all attempts of the address are in progress.
#[test]
fn who_comes_eleventh_waits_for_a_slow_provider() {
    let settings = [("AUTH_THROTTLE", "on"), ("PLUGINS", "TEST")];
    let server = TestServer::with(&settings);
    let points = json!({"provider": [{"type": "auth", "id": "acme"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let asked = start_logins(&server, MANY);
    let take_ten = |worker: &mut Worker| -> Vec<Json> {
        (0..10).map(|_| worker.expect_request("acme")).collect()
    };
    for _ in 0..MANY / 10 {
        for (number, request) in take_ten(&mut worker).iter().enumerate() {
            let principal = format!("user{number}");
            worker.answer(request, &json!({"principal_id": principal}));
        }
    }
    assert_eq!(statuses(asked), [200; MANY]);
    // Once all ten were wrong, nobody waits any longer.
    let asked = start_logins(&server, 15);
    let refused = json!({"code": 105, "message": "no"});
    for request in take_ten(&mut worker) {
        worker.refuse(&request, &refused);
    }
    let mut found = statuses(asked);
    found.sort_unstable();
    let (told, throttled) = found.split_at(10);
    assert_eq!(told, [401; 10]);
    assert_eq!(throttled, [429; 5]);
}
