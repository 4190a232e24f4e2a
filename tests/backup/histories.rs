//! A log that was put back and goes on has another history from there on.

use super::*;

#[test]
fn two_histories_share_a_repository_and_neither_takes_the_others_backups() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    world.fill(&client, "common");
    client.save("single/1", json!({"number": 1}));
    let fork = world.head();
    world.back_up(&[]);
    client.save("single/1", json!({"number": 2}));
    world.back_up(&[]);
    let original = world.names();

    let restored = world.restore("fork", &["--until", &fork.to_string()]);
    let forked = client.at(&restored);
    forked.save("single/1", json!({"number": 20}));
    forked.save("single/1", json!({"number": 30}));
    let said = said(&restored.skytrail(&["backup", text(&world.repository), "--keep", "1"]));
    assert!(said.contains("another history"), "{said}");
    assert!(said.contains(&original[1]), "{said}");
    assert!(said.contains(&format!("removed {}", original[0])), "{said}");
    let names = world.names();
    assert_eq!(names.len(), 2);

    let refused = refusal(&world.try_restore("which", &[]));
    assert!(refused.contains("several histories"), "{refused}");
    for name in &names {
        assert!(refused.contains(name.as_str()), "{refused}");
        said_whole(&world, name);
    }
    for (name, number) in names.iter().zip([2, 30]) {
        let server = world.restore(&format!("to-{number}"), &["--backup", name]);
        assert_eq!(records(&server, &Json::Null)[0][0]["number"], number);
    }
    // Each goes on for itself.
    client.save("single/1", json!({"number": 3}));
    world.back_up(&["--keep", "1"]);
    world.fill(&forked, "other");
    said_again(&restored, &world.repository);
    for name in &world.names() {
        said_whole(&world, name);
    }
    assert_eq!(world.names().len(), 2);
}

fn said_again(server: &TestServer, repository: &Path) {
    said(&server.skytrail(&["backup", text(repository), "--keep", "1"]));
}
