//! What is erased stays erased, whatever is restored.

use super::*;
use crate::support::eventually;
use crate::support::server::MASTER_KEY;

const CANARY: &str = "canary-2b77c01e";

fn places_of(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            places_of(&path, found);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        let text = CANARY.as_bytes();
        if bytes.windows(text.len()).any(|part| part == text) {
            found.push(path);
        }
    }
}

fn has_canary(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    places_of(folder, &mut found);
    found
}

#[test]
fn an_erasure_reaches_all_backups_and_no_restore_brings_it_back() {
    let world = World::start();
    let master = world.master();
    for number in 0..5 {
        master.save(
            "single/gone",
            json!({"text": format!("{CANARY} {number}"), "number": 1}),
        );
        master.save("single/stays", json!({"text": "control", "number": number}));
    }
    world.fill(&master, "sealed");
    let until = world.head();
    world.back_up(&[]);
    master.save("single/gone", json!({"text": format!("{CANARY} again")}));
    world.back_up(&[]);
    assert!(!has_canary(&world.repository).is_empty());

    let key = format!("MASTER_KEY={MASTER_KEY}");
    let server = ["--server", &world.server.base_url, "--why", "asked for"];
    let erase = [
        &["--set", &key, "erase", "record", "single/gone"][..],
        &server,
    ]
    .concat();
    said(&world.server.skytrail(&erase));
    eventually("it is erased here", || {
        has_canary(&world.server.data_dir())
            .is_empty()
            .then_some(())
    });
    world.back_up(&[]);
    assert_eq!(has_canary(&world.repository), Vec::<PathBuf>::new());

    let names = world.names();
    for (number, name) in names.iter().enumerate() {
        said_whole(&world, name);
        let mut restored = world.restore(&format!("r{number}"), &["--backup", name]);
        said(&restored.skytrail(&["log", "verify"]));
        let fetched =
            Client::master(&restored).call("record:fetch", json!({"ids": ["single/stays"]}));
        assert_eq!(fetched.result()[0]["number"], 4);
        assert!(restored.terminate().success());
        said(&restored.skytrail(&["rebuild", "--verify"]));
        assert_eq!(has_canary(&restored.data_dir()), Vec::<PathBuf>::new());
    }
    let restored = world.try_restore("until", &["--until", &until.to_string()]);
    assert!(
        said(&restored).contains("were erased later"),
        "{restored:?}"
    );
    assert_eq!(
        has_canary(&world.server.folder().join("until")),
        Vec::<PathBuf>::new()
    );
}
