//! Power loss at random times under load.
//!
//! `SKYTRAIL_POWER_CYCLES` sets the number of cuts; 5 by default.

use crate::support::client::Client;
use crate::support::load::Load;
use crate::support::machine::{number, skipped, strace};
use crate::support::power::Disk;
use crate::support::server::TestServer;

#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let mut disk = match Disk::new() {
        Ok(disk) => disk,
        Err(why) => return skipped("power loss", &why),
    };
    let mut server = TestServer::with(&[("DATA_DIR", &disk.data())]);
    let client = Client::signed_up(&server, "writer");
    let load = Load::default();
    Load::prepare(&client);
    for cycle in 1..=number("SKYTRAIL_POWER_CYCLES", 5) {
        load.run(&client.at(&server), 40 + (cycle * 71) % 300, || {
            server.kill();
        });
        disk.lose_power();
        server.set("DATA_DIR", &disk.data());
        server.restart();
        load.check(&client.at(&server), &format!("cut {cycle}"));
        let verified = server.skytrail(&["log", "verify"]);
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success(), "cut {cycle}: {said}");
    }
    assert!(load.num_acknowledged() > 0);
    server.kill();
}

/// Proves that the test above would notice: a server whose flushes do nothing loses what it
/// acknowledged.
#[test]
fn a_power_cut_takes_what_was_not_flushed() {
    let (mut disk, strace) = match (Disk::new(), strace()) {
        (Ok(disk), Ok(strace)) => (disk, strace),
        (Err(why), _) | (_, Err(why)) => return skipped("power loss without flushes", &why),
    };
    let mut server = TestServer::with(&[("DATA_DIR", &disk.data())]);
    let client = Client::signed_up(&server, "writer");
    Load::prepare(&client);
    assert!(server.terminate().success());
    let nothing = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:retval=0"];
    let tracer = [&strace, "-D", "-q", "-f", "-o", "/dev/null"];
    server.wrap(&[&tracer[..], &nothing].concat());
    server.restart();
    let load = Load::default();
    load.run(&client.at(&server), 100, || server.kill());
    disk.lose_power();
    server.wrap(&[]);
    server.set("DATA_DIR", &disk.data());
    server.restart();
    let lost = load.compare(&client.at(&server));
    assert!(!lost.is_empty(), "unflushed writes survived a power cut");
    server.kill();
}
