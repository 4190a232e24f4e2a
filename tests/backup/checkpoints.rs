//! The file of signed checkpoints grows for ever; a backup copies only its end again.

use super::{World, said_whole};
use crate::support::client::Client;

const NUM_LINES: usize = 900;

#[test]
fn of_the_checkpoints_only_the_end_is_copied_again() {
    let mut world = World::start();
    Client::master(&world.server).save("single/1", serde_json::json!({"number": 1}));
    assert!(world.server.terminate().success());
    let path = world.server.data_dir().join("checkpoints.jsonl");
    let line = std::fs::read_to_string(&path).unwrap();
    assert_eq!(line.lines().count(), 1);
    let mut notes = line.repeat(NUM_LINES);
    std::fs::write(&path, &notes).unwrap();
    world.back_up(&[]);
    let bytes = |world: &World| -> u64 {
        let files = world.objects("files");
        files.iter().map(|it| it.metadata().unwrap().len()).sum()
    };
    let before = bytes(&world);
    assert!(before >= notes.len() as u64);

    notes.push_str(&line);
    std::fs::write(&path, &notes).unwrap();
    let said = world.back_up(&[]);
    assert!(said.contains("copied 0 segments and 1 files"), "{said}");
    let copied = bytes(&world) - before;
    assert!(copied <= 64 << 10, "{copied} bytes of {}", notes.len());

    for (name, num_lines) in world.names().iter().zip([NUM_LINES, NUM_LINES + 1]) {
        said_whole(&world, name);
        let restored = world.restore(name, &["--backup", name]);
        let restored = restored.data_dir().join("checkpoints.jsonl");
        assert_eq!(
            std::fs::read_to_string(restored).unwrap(),
            line.repeat(num_lines)
        );
    }
}
