//! Retention also reaches the earlier backups, and a restore says so.

use super::*;
use crate::support::server::MASTER_KEY;

#[test]
fn records_whose_versions_of_then_were_let_go_are_counted() {
    let world = World::start();
    let master = world.master();
    let body = json!({"type": "single", "versions": 1});
    for id in ["single/1", "single/2"] {
        master.save(id, json!({"number": 0}));
    }
    master.save("page/1", json!({"text": "stays"}));
    master.call("schema:retention", body).result();
    world.back_up(&[]);
    let first = world.names().remove(0);
    let verified = world.back_up(&["--verify"]);
    assert!(!verified.contains("are lost"), "{verified}");
    for number in 1..41 {
        for id in ["single/1", "single/2"] {
            master.save(id, json!({"number": number}));
        }
    }
    let key = format!("MASTER_KEY={MASTER_KEY}");
    let base = world.server.base_url.as_str();
    let compact = ["--set", &key, "compact", "--server", base];
    said(&world.server.skytrail(&compact));
    world.back_up(&[]);

    let verified = world.back_up(&["--verify", "--backup", &first]);
    assert!(verified.contains("2 records"), "{verified}");
    let restored = said(&world.try_restore("first", &["--backup", &first]));
    let line = restored.lines().find(|line| line.contains("2 records"));
    let line = line.unwrap_or_else(|| panic!("{restored}"));
    assert!(
        line.contains("retention") && line.contains("erased"),
        "{line}"
    );
    let data = world.server.folder().join("first");
    let server = TestServer::with(&[("DATA_DIR", text(&data))]);
    let found = records(&server, &Json::Null);
    assert_eq!(found[0], json!([]), "as it said");
    assert_eq!(found[3][0]["text"], "stays");

    // The newest backup knows them all.
    let verified = world.back_up(&["--verify"]);
    assert!(!verified.contains("are lost"), "{verified}");
    let restored = said(&world.try_restore("newest", &[]));
    assert!(!restored.contains("are lost"), "{restored}");
    assert!(restored.contains("restored"), "{restored}");
}
