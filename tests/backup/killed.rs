//! `kill -9` during a backup: the other backups stay unchanged, and the next one is whole.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_backup_that_is_killed_leaves_the_others_whole() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    world.fill(&client, "first");
    let begun = Instant::now();
    world.back_up(&[]);
    let time = begun.elapsed();
    for round in 0..8_u32 {
        world.fill(&client, &format!("round-{round}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.env_clear().env("DATA_DIR", world.server.data_dir());
        command.args(["backup", text(&world.repository), "--keep", "2"]);
        let mut child = command.spawn().unwrap();
        std::thread::park_timeout(time * round / 6 + Duration::from_millis(1));
        let _ = child.kill();
        let _ = child.wait();
        assert!(!world.names().is_empty());
        world
            .names()
            .iter()
            .for_each(|name| said_whole(&world, name));
    }
    world.back_up(&["--keep", "2"]);
    let until = world.head();
    let restored = world.restore("restored", &[]);
    compare(&restored, &world.server, until);
}

#[test]
fn what_a_check_that_was_killed_has_left_goes_with_the_next_one() {
    let world = World::start();
    world.fill(&Client::signed_up(&world.server, "writer"), "first");
    world.back_up(&[]);
    let temporary = world.server.folder().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let run = |told: &str, more: &[&str]| {
        let script = format!("{told}; exec \"$0\" backup \"$@\"");
        let mut command = Command::new("sh");
        command.env_clear().env("DATA_DIR", world.server.data_dir());
        command.env("TMPDIR", &temporary);
        command.args(["-c", &script, env!("CARGO_BIN_EXE_skytrail")]);
        command.arg(&world.repository).args(more).output().unwrap()
    };
    let num_left = || std::fs::read_dir(&temporary).unwrap().count();
    for next in [&["--verify"][..], &[]] {
        // A signal kills the process when it makes a file larger than this.
        let killed = run("ulimit -c 0; ulimit -f 200", &["--verify"]);
        assert_eq!(killed.status.code(), None, "{killed:?}");
        assert_eq!(num_left(), 1);
        said(&run("true", next));
        assert_eq!(num_left(), 0, "{next:?}");
    }
}
