//! `kill -9` while a backup is made: the others stay what they were, and the next one is whole.

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
