//! `kill -9` under load, repeatedly: everything that was acknowledged exists and is complete, every
//! time.
//!
//! A quarter of the kills is followed by one that hits the start, a recovery from the log alone, or
//! `skytrail rebuild`. `SKYTRAIL_CRASH_CYCLES` sets the number of kills; 50 by default.

use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::load::Load;
use crate::support::machine::number;
use crate::support::server::TestServer;

/// Kills a start or a rebuild at some point within the time that it takes.
fn kill_at_work(server: &mut TestServer, cycle: u64, start_time: Duration) {
    let share = u32::try_from(cycle * 29 % 100).unwrap();
    let moment = start_time * share / 100;
    match cycle / 4 % 3 {
        0 => server.start_and_kill_after("serve", moment),
        1 => server.start_and_kill_after("rebuild", moment),
        _ => {
            // Without a store, the start rebuilds it.
            for name in ["records.sqlite", "records.sqlite-wal", "records.sqlite-shm"] {
                let _ = std::fs::remove_file(server.data_dir().join(name));
            }
            server.start_and_kill_after("serve", moment);
        }
    }
}

#[test]
fn killed_again_and_again_it_keeps_what_it_acknowledged() {
    let mut server = TestServer::start();
    let client = Client::signed_up(&server, "writer");
    let load = Load::default();
    Load::prepare(&client);
    let mut start_time = Duration::from_millis(100);
    for cycle in 0..number("SKYTRAIL_CRASH_CYCLES", 50) {
        load.run(&client.at(&server), 20 + (cycle * 37) % 180, || {
            server.kill();
        });
        if cycle % 4 == 0 {
            kill_at_work(&mut server, cycle, start_time);
        }
        let begun = Instant::now();
        server.restart();
        start_time = begun.elapsed();
        load.check(&client.at(&server), &format!("cycle {cycle}"));
    }
    assert!(server.terminate().success());
}
