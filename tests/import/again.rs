//! A database of Skygear v1 imported again, after some of it was erased or ended here.

use serde_json::{Value as Json, json};

use super::{Move, journal, said};
use crate::support::client::Client;
use crate::support::search::files_with;

#[test]
fn what_was_erased_or_ended_here_does_not_come_back() {
    const CANARY: &str = "canary-41d6a7e0";
    const SUBSCRIBER: &str = "31bdaa2d-63ac-4697-b098-6b892fd43dea";
    const TWO: &str = "9dfb7cd4-2dc9-4036-a156-009ace807b66";
    const PICTURE: &str = "737764e9-ad5c-4bab-8e27-40bceb53f1ee-pic.png";
    let moved = Move::with(&format!(
        "UPDATE asset_in_record_t SET pic = '{PICTURE}'; \
         UPDATE _subscription SET query = replace(query::text, 'a%', '{CANARY}')::jsonb \
           WHERE id = 'x1'; \
         INSERT INTO _subscription SELECT id, auth_id, '{TWO}', type, notification_info, query \
           FROM _subscription WHERE id = 'x2';"
    ));
    let files = moved.folder.path().join("files of v1");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join(PICTURE), CANARY).unwrap();
    let folder = files.to_string_lossy().into_owned();
    let from_there = ["--assets-from", folder.as_str()];
    moved.import(&from_there);
    let is_kept = |place: &str| {
        let found = files_with(&moved.data(), CANARY);
        let mut paths = found.iter().map(|it| it.to_string_lossy());
        paths.any(|it| it.contains(place))
    };
    // A user's subscriptions are sealed with the user's key, like those saved here.
    assert_eq!(
        (is_kept("/journal/"), is_kept("/records.sqlite")),
        (false, true)
    );
    assert!(is_kept(PICTURE));

    let mut server = moved.serve(&[]);
    let master = Client::master(&server);
    let erase = |action: &str, body: Json| {
        let erased = master.call(action, body).result();
        assert_eq!(erased["finished"], true, "{erased}");
    };
    erase("erase:user", json!({"user": SUBSCRIBER, "why": "a test"}));
    erase(
        "erase:record",
        json!({"record": "asset_in_record_t/1", "why": "a test"}),
    );
    let [from, to] = [
        "c8dff210-e0eb-49a8-8892-fb767e7a269a",
        "2a091641-f0ad-4f8f-b593-d4273e3d1646",
    ];
    let no_more = json!({"name": "follow", "targets": [to], "_user_id": from});
    master.call("relation:remove", no_more).result();
    let no_more = json!({"device_id": TWO, "subscription_ids": ["x2"]});
    master.call("subscription:delete", no_more).result();
    server.terminate();
    assert!(files_with(&moved.data(), CANARY).is_empty());
    let checked = server.skytrail(&["rebuild", "--verify"]);
    assert!(checked.status.success(), "{}", said(&checked));

    let before = journal(&moved.data());
    let (table, told) = moved.import_and_report(&from_there);
    assert!(files_with(&moved.data(), CANARY).is_empty());
    assert!(journal(&moved.data()) == before, "the journal has grown");
    assert_eq!(table.of("_follow"), [5, 0, 0, 3, 1, 1]);
    assert_eq!(table.of("_subscription")[4..], [1, 3]);
    assert_eq!(table.of("_asset"), [4, 0, 0, 3, 1, 0]);
    let told = told.iter().find(|line| line["table"] == "_asset");
    assert_eq!(told.unwrap()["reason"], "it was erased here");
}
