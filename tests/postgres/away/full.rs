//! The disk with the database's tables, or with its write-ahead log, is full.

use std::os::unix::fs::chown;

use serde_json::json;

use super::{begin, compare, refused};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{Mount, run, skipped};
use crate::support::postgres::{Postgres, unprivileged};

/// Creates a small disk that the database may use; it goes with the folder.
fn small_disk(size: &str) -> Option<(tempfile::TempDir, Mount)> {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("small"), size) {
        Ok(mount) => mount,
        Err(why) => {
            skipped("full disk of the database", &why);
            return None;
        }
    };
    if let Some((user, group)) = unprivileged() {
        run("chmod", &["755", &folder.path().to_string_lossy()]).unwrap();
        chown(mount.folder(), Some(user), Some(group)).unwrap();
    }
    Some((folder, mount))
}

/// Saves pages until the disk is full; returns how many.
fn fill(ada: &Client, is_full: impl Fn() -> bool) -> u32 {
    let mut number = 0_u32;
    while !is_full() {
        number += 1;
        assert!(number < 2000, "the disk does not become full");
        ada.save(&format!("page/{number}"), json!({"text": noise(number)}));
    }
    number
}

fn make_space(place: &str) {
    run("mount", &["-o", "remount,size=400m", place]).unwrap();
}

#[test]
fn a_full_disk_of_the_database_holds_up_the_store_alone() {
    let Some((_folder, mount)) = small_disk("40m") else {
        return;
    };
    let postgres = Postgres::start();
    let place = mount.folder().to_string_lossy().into_owned();
    postgres.sql(&format!("CREATE TABLESPACE small LOCATION '{place}'"));
    let database = postgres.database(&[]);
    postgres.sql("ALTER DATABASE test_0 SET TABLESPACE small");
    let url = database.url();
    let (server, ada, mut account) = begin(&url);
    account.await_all(&ada);

    let pages = fill(&ada, || {
        let projector = Client::master(&server).health()["projector"].take();
        let reason = projector["reason"].as_str().unwrap_or_default();
        projector["is_failing"] == true && reason.contains("No space left")
    });
    // Writes continue, and reads say why they cannot.
    account.save(&ada, 20);
    let why = refused(&ada);
    assert!(why.contains("no space left"), "{why}");

    make_space(&place);
    account.await_all(&ada);
    let found = database.sql("SELECT count(*) FROM app_myapp.page");
    assert_eq!(found.trim(), pages.to_string());
    compare(server, &url);
}

/// Without space for its write-ahead log the database ends, whoever caused the write.
#[test]
fn a_full_disk_of_its_write_ahead_log_ends_the_database_alone() {
    // Small enough that the account's records are still in memory when the disk is full.
    let Some((_folder, mount)) = small_disk("24m") else {
        return;
    };
    let postgres = Postgres::start_with_log_in(mount.folder());
    let database = postgres.database(&[]);
    let url = database.url();
    let (server, ada, mut account) = begin(&url);
    account.await_all(&ada);

    let pages = fill(&ada, || {
        let said = std::fs::read_to_string(postgres.folder().join("log")).unwrap();
        said.contains("No space left on device")
    });
    postgres.await_end();
    account.save(&ada, 20);
    eventually("reads say why they cannot", || {
        refused(&ada).contains("cannot be reached").then_some(())
    });

    make_space(&mount.folder().to_string_lossy());
    postgres.start_again();
    account.await_all(&ada);
    let found = database.sql("SELECT count(*) FROM app_myapp.page");
    assert_eq!(found.trim(), pages.to_string());
    compare(server, &url);
}

/// Returns a text that cannot be compressed.
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
