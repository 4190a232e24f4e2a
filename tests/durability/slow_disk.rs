//! A disk with slow flushes: no answer comes early, and excess load is refused immediately instead
//! of filling up memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::system_calls::segment;
use crate::support::client::Client;
use crate::support::machine::{resident_bytes, skipped, strace};
use crate::support::server::TestServer;
use crate::support::{SetOnDrop, eventually};

const FLUSH: Duration = Duration::from_millis(200);
const WRITERS: usize = 48;

#[derive(Default)]
struct Counts {
    is_over: AtomicBool,
    num_taken: AtomicUsize,
    num_shed: AtomicUsize,
}

/// Starts a server with a user and a type, whose flushes take this long from now on.
fn slow_server(settings: &[(&str, &str)], flush: Duration) -> Option<(TestServer, Client)> {
    let strace = match strace() {
        Ok(path) => path,
        Err(why) => {
            skipped("slow disk", &why);
            return None;
        }
    };
    let mut server = TestServer::start();
    let client = Client::signed_up(&server, "ada");
    client.save("note/first", json!({"text": "so that the type is there"}));
    assert!(server.terminate().success());
    let path = segment(&server).to_string_lossy().into_owned();
    let fault = format!("inject=fdatasync:delay_enter={}", flush.as_micros());
    let tracer = [&strace, "-D", "-q", "-f", "-o", "/dev/null", "-P", &path];
    server.wrap(&[&tracer[..], &["-e", "trace=fdatasync", "-e", &fault]].concat());
    server.restart_with(settings);
    let client = client.at(&server);
    Some((server, client))
}

/// Flushes take longer than clients wait, and a client that is told so can rely on it.
#[test]
fn whatever_is_stored_was_not_said_to_have_taken_too_long() {
    let flush = Duration::from_millis(700);
    let Some((_server, client)) = slow_server(&[("RESPONSE_TIMEOUT", "1")], flush) else {
        return;
    };
    // They wait for each other's flushes, so that deadlines pass both before and during their own.
    let saves: Vec<_> = (0..12)
        .map(|number| {
            let client = client.clone();
            std::thread::spawn(move || {
                std::thread::park_timeout(Duration::from_millis(60 * number));
                let id = format!("note/{number}");
                let record = json!({"_id": id, "text": "slowly"});
                let answer = client.call("record:save", json!({"records": [record]}));
                (id, answer)
            })
        })
        .collect();
    let answers: Vec<_> = saves.into_iter().map(|save| save.join().unwrap()).collect();
    let found = eventually("the notes are read in time", || {
        let answer = client.call("record:query", json!({"record_type": "note"}));
        (answer.status == 200).then(|| answer.result())
    });
    let found = found.as_array().unwrap();
    for (id, answer) in answers {
        let is_stored = found.iter().any(|record| record["_id"] == id);
        match answer.status {
            200 => assert!(is_stored, "{id}"),
            503 => {
                assert_eq!(answer.code(), 122);
                assert!(!is_stored, "{id} is stored after all");
            }
            other => panic!("{other}: {}", answer.json()),
        }
    }
}

#[test]
fn on_a_slow_disk_answers_wait_for_it_and_overload_is_turned_away() {
    let Some((server, client)) = slow_server(&[("LOG_QUEUE", "8")], FLUSH) else {
        return;
    };
    for number in 0..5 {
        let begun = Instant::now();
        client.save(&format!("note/{number}"), json!({"text": "slowly"}));
        assert!(
            begun.elapsed() >= FLUSH,
            "answered after {:?}",
            begun.elapsed()
        );
    }

    // Many more at once than may wait.
    let counts = Counts::default();
    let write = |writer: usize| {
        while !counts.is_over.load(Ordering::SeqCst) {
            let record = json!({"_id": format!("note/many-{writer}"), "text": "x".repeat(2000)});
            let begun = Instant::now();
            let answer = client.call("record:save", json!({"records": [record]}));
            match answer.status {
                200 => {
                    assert!(begun.elapsed() >= FLUSH, "{:?}", begun.elapsed());
                    counts.num_taken.fetch_add(1, Ordering::SeqCst);
                }
                503 => {
                    assert!(answer.header("Retry-After").is_some(), "{}", answer.json());
                    counts.num_shed.fetch_add(1, Ordering::SeqCst);
                    // Like a client that follows the advice, but impatiently.
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                other => panic!("{other}: {}", answer.json()),
            }
        }
    };
    let resident_after = |num_taken: usize, num_shed: usize| {
        eventually("writes are taken and turned away", || {
            let is_enough = counts.num_shed.load(Ordering::SeqCst) >= num_shed
                && counts.num_taken.load(Ordering::SeqCst) >= num_taken;
            is_enough.then_some(())
        });
        resident_bytes(server.pid())
    };
    std::thread::scope(|scope| {
        let _ending = SetOnDrop(&counts.is_over);
        for writer in 0..WRITERS {
            let write = &write;
            scope.spawn(move || write(writer));
        }
        let warm = resident_after(50, 200);
        let later = resident_after(200, 1500);
        assert!(later < warm + (64 << 20), "{warm} bytes, later {later}");
    });
}
