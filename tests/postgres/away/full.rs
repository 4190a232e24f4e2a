//! The disk on which the database keeps its tables is full.

use std::os::unix::fs::chown;

use serde_json::json;

use super::{await_trouble, begin, compare, refused};
use crate::support::client::Client;
use crate::support::machine::{Mount, run, skipped};
use crate::support::postgres::{Postgres, unprivileged};

#[test]
fn a_full_disk_of_the_database_holds_up_the_store_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("small"), "40m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk of the database", &why),
    };
    if let Some((user, group)) = unprivileged() {
        run("chmod", &["755", &folder.path().to_string_lossy()]).unwrap();
        chown(mount.folder(), Some(user), Some(group)).unwrap();
    }
    let postgres = Postgres::start();
    let place = mount.folder().to_string_lossy().into_owned();
    postgres.sql(&format!("CREATE TABLESPACE small LOCATION '{place}'"));
    let database = postgres.database(&[]);
    postgres.sql("ALTER DATABASE test_0 SET TABLESPACE small");
    let url = database.url();
    let (server, ada, mut account) = begin(&url);
    account.await_all(&ada);

    let mut number = 0_u32;
    let mut fill = |until: &dyn Fn() -> bool| {
        while !until() {
            number += 1;
            ada.save(&format!("page/{number}"), json!({"text": noise(number)}));
        }
    };
    let is_failing = || Client::master(&server).health()["projector"]["is_failing"] == true;
    fill(&is_failing);
    let reason = await_trouble(&server);
    assert!(reason.contains("No space left"), "{reason}");
    // Writes go on, reads say why they cannot.
    account.save(&ada, 20);
    let why = refused(&ada);
    assert!(why.contains("no space left"), "{why}");

    run("mount", &["-o", "remount,size=400m", &place]).unwrap();
    account.await_all(&ada);
    let pages = database.sql("SELECT count(*) FROM app_myapp.page");
    assert_eq!(pages.trim(), number.to_string());
    compare(server, &url);
}

/// Makes a text that does not get smaller by being packed.
fn noise(seed: u32) -> String {
    let mut state = u64::from(seed) | 1 << 40;
    let letters = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + u8::try_from(state % 90).unwrap())
    });
    letters.take(100_000).collect()
}
