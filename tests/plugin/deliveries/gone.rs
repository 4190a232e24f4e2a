//! Events of users who no longer exist when a plugin hears of them.

use std::collections::BTreeMap;

use super::*;

#[test]
fn a_late_delivery_names_nobody_who_was_erased() {
    // Either the server remembers the request, or it knows it only from the log.
    for is_restarted in [false, true] {
        let mut server = server(&[]);
        let points = told(&json!({}));
        come_and_go(&server, &points);
        let [ada, bob] = ["ada", "bob"].map(|name| Client::signed_up(&server, name));
        ada.save("note/1", json!({"n": 1}));
        bob.save("note/2", json!({"n": 2}));
        let erased = json!({"user": ada.user, "why": "the law"});
        let erased = Client::master(&server).call("erase:user", erased).result();
        assert_eq!(erased["finished"], true);
        if is_restarted {
            server.kill();
            server.restart();
        }
        let mut worker = arrive(&server, &json!({}), &points);
        // Different records may be delivered in any order.
        let mut contexts = BTreeMap::new();
        for _ in 0..2 {
            let request = next_delivery(&mut worker);
            worker.answer(&request, &Json::Null);
            contexts.insert(number(&request), request["context"].clone());
        }
        assert_eq!(contexts[&1], json!({"access_key_type": "client"}));
        assert_eq!(contexts[&2]["user_id"], json!(bob.user));
        expect_end(&server, &mut worker);
    }
}

/// The same holds as when a before-hook refuses before the user exists.
#[test]
fn a_late_delivery_names_nobody_whose_sign_up_was_undone() {
    let server = server(&[]);
    let refusing = hook("user", "afterSave");
    let mut telling = hook("user", "afterSave");
    telling["name"] = json!("later");
    telling["async"] = json!(true);
    let points = json!({"hook": [refusing, telling]});
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &points);
    let anonymous = Client::anonymous(&server);
    let body = json!({"auth_data": {"username": "ada"}, "password": "secret-of-the-test"});
    let asked = crate::plugin::call(&anonymous, "auth:signup", body);
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(next_delivery(&mut worker));
    }
    let (no, late): (Vec<_>, Vec<_>) = held.iter().partition(|it| it["name"] != "later");
    worker.refuse(
        no[0],
        &json!({"code": 108, "message": "not her", "name": "InvalidArgument"}),
    );
    assert_ne!(asked.join().unwrap().status, 200);
    // The unfinished delivery is repeated, and by then she no longer exists.
    worker.refuse(
        late[0],
        &json!({"code": 10000, "message": "again", "name": "UnexpectedError"}),
    );
    let again = next_delivery(&mut worker);
    assert_eq!(again["name"], "later");
    assert_eq!(again["context"].get("user_id"), None, "{again}");
    worker.answer(&again, &Json::Null);
}
