//! The file of signed checkpoints grows for ever; a backup copies only its end again.

use super::{World, said, said_whole};
use crate::support::client::Client;

const NUM_LINES: usize = 900;

/// Returns how many files a backup has, and how many were copied for it.
fn counted(said: &str) -> (usize, usize) {
    let mut parts = said.split(" files, ").map(|part| {
        let number = part.rsplit(' ').next().unwrap();
        number.parse().unwrap_or_else(|_| panic!("{said}"))
    });
    (parts.next().unwrap(), parts.next().unwrap())
}

#[test]
fn of_the_checkpoints_only_the_end_is_copied_again() {
    let mut world = World::start();
    Client::master(&world.server).save("single/1", serde_json::json!({"number": 1}));
    assert!(world.server.terminate().success());
    let num_files = counted(&world.back_up(&[])).0;
    let path = world.server.data_dir().join("checkpoints.jsonl");
    let line = std::fs::read_to_string(&path).unwrap();
    assert_eq!(line.lines().count(), 1);
    let mut notes = line.repeat(NUM_LINES);
    std::fs::write(&path, &notes).unwrap();
    // However many pieces a file is in, it is one file.
    assert_eq!(counted(&world.back_up(&[])), (num_files, 1));
    let bytes = |world: &World| -> u64 {
        let files = world.objects("files");
        files.iter().map(|it| it.metadata().unwrap().len()).sum()
    };
    let before = bytes(&world);
    assert!(before >= notes.len() as u64);

    notes.push_str(&line);
    std::fs::write(&path, &notes).unwrap();
    assert_eq!(counted(&world.back_up(&[])), (num_files, 1));
    let copied = bytes(&world) - before;
    assert!(copied <= 64 << 10, "{copied} bytes of {}", notes.len());

    for (name, num_lines) in world.names().iter().zip([1, NUM_LINES, NUM_LINES + 1]) {
        said_whole(&world, name);
        let restored = said(&world.try_restore(name, &["--backup", name]));
        let count = format!(" and {num_files} files from backup {name}");
        assert!(restored.contains(&count), "{restored}");
        let restored = world.server.folder().join(name).join("checkpoints.jsonl");
        assert_eq!(
            std::fs::read_to_string(restored).unwrap(),
            line.repeat(num_lines)
        );
    }
}
