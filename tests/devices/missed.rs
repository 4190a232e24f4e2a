//! Notices that were not sent before the server ended are sent when it is back.

use serde_json::{Value as Json, json};

use super::{Listener, register, subscribe};
use crate::support::client::Client;
use crate::support::server::TestServer;

fn number(message: &Json) -> u64 {
    message["data"]["seq-num"].as_u64().unwrap()
}

/// The server is killed right after an acknowledgement, repeatedly. Either the notice had been
/// sent, or the device receives it when it returns. The numbers grow, except for repeated notices.
#[test]
fn no_notice_is_lost_with_a_kill_and_numbers_grow() {
    let mut server = TestServer::start();
    let mut ada = Client::signed_up(&server, "ada");
    ada.save("note/0", json!({"n": 0}));
    let device = register(&ada, "t");
    subscribe(&ada, &device, "all", json!({"record_type": "note"}));
    let mut last = 0;
    for round in 1..=6 {
        let mut listener = Listener::new(&server, &device);
        // Notices that are sent come before the mark; the mark's record is saved last.
        let mut told: Vec<u64> = listener.early.drain(..).map(|it| number(&it)).collect();
        for n in 0..round % 3 {
            ada.save(&format!("note/{round}-{n}"), json!({"n": n}));
        }
        ada.save("note/last", json!({"n": round}));
        server.kill();
        while let Some(message) = listener.receive() {
            told.push(number(&message));
        }
        let before: Vec<u64> = told.iter().copied().filter(|it| *it > last).collect();
        assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
        last = before.last().copied().unwrap_or(last);
        server.restart();
        ada = ada.at(&server);
        let is_all_told = before.len() > round % 3;
        if !is_all_told {
            let mut back = Listener::new(&server, &device);
            // Of several notices under one name the last one is kept.
            while last >= number(&back.next()) {}
        }
        // Whatever the number of the last notice was, the next is larger.
        let mut back = Listener::new(&server, &device);
        let so_far = back.early.drain(..).map(|it| number(&it)).max();
        last = last.max(so_far.unwrap_or(0));
        ada.save("note/next", json!({"n": round}));
        // A repeated notice keeps its number.
        let mut next = number(&back.next());
        while next <= last {
            next = number(&back.next());
        }
        last = next;
    }
}

/// A device that is away for a moment receives one notice, the latest, when it returns.
#[test]
fn who_comes_back_soon_is_told_what_he_missed() {
    let mut server = TestServer::start();
    let mut ada = Client::signed_up(&server, "ada");
    ada.save("note/0", json!({"n": 0}));
    let device = register(&ada, "t");
    for id in ["all", "also"] {
        subscribe(&ada, &device, id, json!({"record_type": "note"}));
    }
    // Notices are sent in log order: once this device hears one, all before it were sent or kept.
    let watch = register(&ada, "w");
    subscribe(&ada, &watch, "mark", json!({"record_type": "mark"}));
    let mut last = 0;
    for round in 0..2 {
        for n in 0..5 {
            ada.save(&format!("note/{n}"), json!({"n": n}));
        }
        if round == 1 {
            // Notices that were sent stay sent; at most the last one is repeated.
            assert!(server.terminate().success());
            server.restart();
            ada = ada.at(&server);
            ada.save("note/0", json!({"n": -1}));
        }
        let mut watcher = Listener::new(&server, &watch);
        ada.save("mark/0", json!({"n": round}));
        let mut mark = watcher.hears("mark");
        while mark <= last {
            mark = watcher.hears("mark");
        }
        last = mark;
        let mut listener = Listener::new(&server, &device);
        let first = listener.notice();
        let second = listener.notice();
        assert_eq!([&*first.0, &*second.0], ["all", "also"]);
        assert_eq!(first.1, second.1, "both are of the latest change");
        ada.save("note/0", json!({"n": 9}));
        let third = listener.notice();
        assert_eq!(third.0, "all");
        assert!(third.1 > first.1);
        assert_eq!(listener.notice(), ("also".to_owned(), third.1));
    }
}
