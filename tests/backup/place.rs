//! Where files belong after a restore.

use super::*;
use crate::files::{ask, path_of, upload};

#[test]
fn a_restore_says_where_its_files_belong_when_the_server_looks_elsewhere() {
    let mut world = World::start();
    let folder = world.server.folder().join("files");
    let setting = format!("ASSET_STORE_PATH={}", text(&folder));
    world
        .server
        .restart_with(&[("ASSET_STORE_PATH", text(&folder))]);
    let asset = upload(&world.server, "note.txt", "text/plain", "elsewhere");
    let repository = text(&world.repository);
    let run = |arguments: &[&str]| said(&world.server.skytrail(arguments));
    run(&["--set", &setting, "backup", repository]);

    let to = world.server.folder().join("r8");
    let told = run(&["--set", &setting, "restore", repository, "--to", text(&to)]);
    let last = told.lines().find(|line| line.contains("ASSET_STORE_PATH"));
    let last = last.unwrap_or_else(|| panic!("{told}"));
    let put = to.join("asset");
    assert!(last.contains("1 files"), "{last}");
    assert!(
        last.contains(text(&put)) && last.contains(text(&folder)),
        "{last}"
    );
    // The server finds them where the message says that they belong.
    std::fs::rename(&folder, world.server.folder().join("lost")).unwrap();
    std::fs::rename(&put, &folder).unwrap();
    let settings = [("DATA_DIR", text(&to)), ("ASSET_STORE_PATH", text(&folder))];
    let restored = TestServer::with(&settings);
    assert_eq!(ask(&restored, "GET", &path_of(&asset), &[]).status, 200);

    let to = world.server.folder().join("r9");
    let restore = ["restore", repository, "--to", text(&to)];
    let told = run(&[&BUCKET_FLAGS[..], &restore].concat());
    assert!(
        told.contains("1 files") && told.contains("bucket pictures"),
        "{told}"
    );

    // Without the setting a server looks in its own data folder.
    let to = world.server.folder().join("r10");
    let told = run(&["restore", repository, "--to", text(&to)]);
    assert!(!told.contains("ASSET_STORE"), "{told}");
    let own = to.join("data/asset");
    let setting = format!("ASSET_STORE_PATH={}", text(&own));
    let to = to.join("data");
    let told = run(&["--set", &setting, "restore", repository, "--to", text(&to)]);
    assert!(!told.contains("ASSET_STORE"), "{told}");
}

/// A file that the copy erases is removed from the bucket, and the original may still need it.
#[test]
fn a_restore_says_when_the_original_has_its_files_in_a_bucket() {
    let world = World::start();
    world.master().save("single/1", json!({"number": 1}));
    let repository = text(&world.repository);
    let run = |flags: &[&str], name: &str| {
        let to = world.server.folder().join(name);
        let restore = ["restore", repository, "--to", text(&to)];
        said(&world.server.skytrail(&[flags, &restore].concat()))
    };
    let is_warned = |told: &str| told.contains("name the copy with ASSET_STORE_BUCKET");
    said(&world.server.skytrail(&["backup", repository]));
    assert!(!is_warned(&run(&[], "from-a-folder")));
    let told = run(&BUCKET_FLAGS, "into-the-bucket");
    assert!(is_warned(&told) && told.contains("pictures"), "{told}");

    let backup = [&BUCKET_FLAGS[..], &["backup", repository]].concat();
    said(&world.server.skytrail(&backup));
    for (flags, name) in [(&[][..], "elsewhere"), (&BUCKET_FLAGS[..], "the-same")] {
        let told = run(flags, name);
        assert!(is_warned(&told) && told.contains("pictures"), "{told}");
    }
    let mut other = BUCKET_FLAGS;
    other[3] = "ASSET_STORE_BUCKET=copies";
    let told = run(&other, "another");
    assert!(!is_warned(&told), "{told}");
    let both = told.contains("bucket pictures") && told.contains("bucket copies");
    assert!(both, "{told}");
}

/// A client that may download files could download the backups, which contain the master key.
#[test]
fn backups_are_not_put_among_the_files_of_users() {
    let world = World::start();
    world.master().save("single/1", json!({"number": 1}));
    let run = |flags: &[&str], target: &str| {
        let keys = [
            "--set",
            "BACKUP_S3_ACCESS_KEY=a",
            "--set",
            "BACKUP_S3_SECRET_KEY=b",
            "--set",
            "BACKUP_S3_ENDPOINT=http://127.0.0.1:1/",
        ];
        let all = [flags, &keys, &["backup", target]].concat();
        refusal(&world.server.skytrail(&all))
    };
    let same = [
        &BUCKET_FLAGS[..],
        &["--set", "ASSET_STORE_S3_ENDPOINT=http://127.0.0.1:1"],
    ]
    .concat();
    let refused = run(&same, "s3://pictures/backups");
    assert!(refused.contains("users' files"), "{refused}");
    // A bucket of the same name at another service, which cannot be reached.
    let failed = run(&BUCKET_FLAGS, "s3://pictures/backups");
    assert!(!failed.contains("users' files"), "{failed}");

    let files = world.server.data_dir().join("asset");
    for target in [&files, &files.join("backups"), &files.join("new/../old")] {
        let refused = run(&[], text(target));
        assert!(refused.contains("users' files"), "{refused}");
        assert!(!target.join("repository.json").exists());
    }

    let target = files.join("backups");
    let mut server = world.server;
    server.set("BACKUP_TARGET", text(&target));
    server.restart();
    eventually("the server says so, too", || {
        let health = Client::master(&server).health();
        let error = health["backups"]["last_error"].as_str()?.to_owned();
        error.contains("users' files").then_some(())
    });
    assert!(!target.exists());
}

/// A backup for another service must not end up in a folder of this machine.
#[test]
fn an_address_of_another_service_is_no_folder() {
    let world = World::start();
    for target in [
        "gs://bucket/x",
        "S3://bucket/x",
        "s3:/bucket/x",
        "sftp://host/x",
        "file:///tmp/x",
    ] {
        let refused = refusal(&world.server.skytrail(&["backup", target]));
        assert!(refused.contains(target), "{refused}");
        assert!(refused.contains("s3://bucket/prefix"), "{refused}");
    }
}
