//! After a restore from a backup, positions are those of other events; a delivery's id is not.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Takes deliveries of this many records; returns their ids by record.
fn ids(worker: &mut Worker, num: usize) -> BTreeMap<String, String> {
    let taken = (0..num).map(|_| {
        let delivery = next_delivery(worker);
        worker.answer(&delivery, &Json::Null);
        let delivery_id = delivery["delivery"]["id"].as_str().unwrap();
        (id(&delivery).to_owned(), delivery_id.to_owned())
    });
    taken.collect()
}

/// A plugin that stores the id of each delivery next to its effect, somewhere that is not restored,
/// must not take new deliveries for old ones.
#[test]
fn an_id_is_of_one_event_even_after_a_restore() {
    let original = server(&[]);
    let mut worker = Worker::ready(&original, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&original, "ada");
    ada.save("note/kept", json!({"n": 0}));
    let mut seen = ids(&mut worker, 1);
    expect_end(&original, &mut worker);
    // Listing dead letters makes the plugin's position durable, so the backup has it.
    let body = json!({"consumer": "TEST"});
    Client::master(&original)
        .call("delivery:dead_letters", body)
        .result();
    let [backups, to] = ["backups", "restored"].map(|name| original.folder().join(name));
    let run = |arguments: &[&str]| {
        let output = original.skytrail(arguments);
        assert!(output.status.success(), "{output:?}");
    };
    run(&["backup", backups.to_str().unwrap()]);
    for name in ["note/a", "note/b", "note/c"] {
        ada.save(name, json!({"n": 1}));
    }
    seen.extend(ids(&mut worker, 3));
    let folder = to.to_str().unwrap();
    run(&["restore", backups.to_str().unwrap(), "--to", folder]);

    let restored = server(&[("DATA_DIR", folder)]);
    let mut worker = arrive(&restored, &json!({}), &told(&json!({})));
    let ada = ada.at(&restored);
    for name in ["note/d", "note/e", "note/f"] {
        ada.save(name, json!({"n": 2}));
    }
    let new = ids(&mut worker, 3);
    let old: BTreeSet<&String> = seen.values().collect();
    assert!(new.values().all(|id| !old.contains(id)), "{seen:?} {new:?}");

    // An event that both have keeps its id, which begins with the event's.
    let master = Client::master(&restored);
    let read = master.call("log:read", json!({"record": "note/kept"}));
    let event = read.result()[0].clone();
    assert_eq!(
        seen["note/kept"],
        format!("{}/note_afterSave", event["id"].as_str().unwrap())
    );
    let position = &event["position"];
    let body = json!({"consumer": "TEST", "from": position, "until": position});
    master.call("delivery:redeliver", body).result();
    assert_eq!(ids(&mut worker, 1)["note/kept"], seen["note/kept"]);
    expect_end(&restored, &mut worker);
}
