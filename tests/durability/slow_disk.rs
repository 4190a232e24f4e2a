//! A disk whose flushes take long: nobody is answered early, too much load is turned away at once and
//! not piled up in memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::system_calls::segment;
use crate::support::client::Client;
use crate::support::machine::{resident_bytes, skipped, strace};
use crate::support::server::TestServer;

const FLUSH: Duration = Duration::from_millis(200);
const WRITERS: usize = 80;
const MIB: usize = 1 << 20;

#[test]
fn on_a_slow_disk_answers_wait_for_it_and_overload_is_turned_away() {
    let strace = match strace() {
        Ok(path) => path,
        Err(why) => return skipped("slow disk", &why),
    };
    let mut server = TestServer::start();
    let client = Client::signed_up(&server, "ada");
    client.save("note/first", json!({"text": "so that the type is there"}));
    assert!(server.terminate().success());
    let path = segment(&server).to_string_lossy().into_owned();
    let fault = format!("inject=fdatasync:delay_enter={}", FLUSH.as_micros());
    let tracer = [&strace, "-D", "-q", "-f", "-o", "/dev/null", "-P", &path];
    server.wrap(&[&tracer[..], &["-e", "trace=fdatasync", "-e", &fault]].concat());
    server.restart();
    let client = client.at(&server);

    for number in 0..5 {
        let begun = Instant::now();
        client.save(&format!("note/{number}"), json!({"text": "slowly"}));
        assert!(
            begun.elapsed() >= FLUSH,
            "answered after {:?}",
            begun.elapsed()
        );
    }

    // More than the queue of 32 MiB, again and again.
    let text = "x".repeat(MIB);
    let (is_over, num_taken, num_shed) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let write = |writer: usize| {
        while !is_over.load(Ordering::Relaxed) {
            let record = json!({"_id": format!("note/big-{writer}"), "text": text});
            let answer = client.call("record:save", json!({"records": [record]}));
            let error = answer.json()["error"].clone();
            match answer.status {
                200 => {
                    num_taken.fetch_add(1, Ordering::Relaxed);
                }
                503 => {
                    assert!(answer.header("Retry-After").is_some(), "{error}");
                    num_shed.fetch_add(1, Ordering::Relaxed);
                    // As a client does that takes the advice, if impatiently.
                    std::thread::park_timeout(Duration::from_millis(100));
                }
                other => panic!("{other}: {error}"),
            }
        }
    };
    let until = |shed: usize, taken: usize| {
        crate::support::eventually("writes are taken and turned away", || {
            let is_enough = num_shed.load(Ordering::Relaxed) >= shed
                && num_taken.load(Ordering::Relaxed) >= taken;
            is_enough.then_some(())
        });
        resident_bytes(server.pid())
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let write = &write;
            scope.spawn(move || write(writer));
        }
        let begin = until(80, 10);
        let middle = until(400, 30);
        let end = until(800, 50);
        is_over.store(true, Ordering::Relaxed);
        println!(
            "{} MiB, {} MiB, {} MiB",
            begin / MIB as u64,
            middle / MIB as u64,
            end / MIB as u64
        );
        assert!(
            end < middle.max(begin) + 64 * MIB as u64,
            "{begin} {middle} {end}"
        );
    });
}
