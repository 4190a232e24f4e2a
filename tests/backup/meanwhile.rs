//! Reading backups while others are made, and replace what is read.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::support::SetOnDrop;

#[test]
fn a_restore_meets_backups_that_are_made_meanwhile() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    world.fill(&client, "sealed");
    world.back_up(&[]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ending = SetOnDrop(&is_over);
        scope.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                client.save("single/1", json!({"number": number}));
                world.back_up(&["--keep", "1"]);
                number += 1;
            }
        });
        let told = |output: &Output| (!output.status.success()).then(|| lossy(&output.stderr));
        let mut failures: Vec<String> = Vec::new();
        for number in 0..12 {
            failures.extend(told(&world.try_restore(&format!("r{number}"), &[])));
            failures.extend(told(&world.try_back_up(&["--verify"])));
            failures.extend(told(&world.try_back_up(&["--list"])));
        }
        // With one backup at a time, the one that is read can be gone before it has been read.
        let is_told = |failure: &String| failure.contains("try again");
        assert!(failures.iter().all(is_told), "{failures:#?}");
        assert!(failures.len() < 36, "{failures:#?}");
    });
    said(&world.try_restore("afterwards", &[]));
}
