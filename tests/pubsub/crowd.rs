//! Many idle sockets.

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;

use super::{connect, hear, hub_figure, listen, publication, subscribe, subscription};
use crate::support::machine::{number, resident_bytes};
use crate::support::server::TestServer;
use crate::support::socket::Socket;

/// The most memory that 10,000 of them may take.
const MOST_BYTES: u64 = 500 << 20;
const MANY: u64 = 10_000;

/// Raises this process's limit of open files as far as the system allows.
fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// `SKYTRAIL_CROWD=10000` runs it with the full number.
#[test]
fn idle_sockets_take_little_memory_and_all_hear() {
    raise_limit();
    let count = number("SKYTRAIL_CROWD", 1000);
    let server = TestServer::with(&[("LOG_LEVEL", "warn")]);
    let mut speaker = listen(&server, "all");
    let before = resident_bytes(server.pid());
    let mut crowd: Vec<Socket> = (0..count)
        .map(|_| {
            let mut socket = connect(&server);
            socket.send(&subscription("all"));
            socket
        })
        .collect();
    // A socket that has heard itself is subscribed.
    for (number, socket) in crowd.iter_mut().enumerate() {
        subscribe(socket, &format!("own-{number}"));
    }
    assert_eq!(hub_figure(&server, "num_listeners"), count + 1);
    let idle = resident_bytes(server.pid()) - before;
    println!("{count} idle sockets: {} KiB each", idle / count / 1024);
    assert!(
        idle < MOST_BYTES * count / MANY,
        "{idle} bytes for {count} sockets"
    );
    for n in 0..3 {
        speaker.send(&publication("all", &json!(n)));
        assert_eq!(hear(&mut speaker), n);
        for socket in &mut crowd {
            assert_eq!(hear(socket), n);
        }
    }
}
