//! Files that the log knows and a backup does not find: the folder of files is a setting, and the
//! shell's may differ from the server's.

use super::*;
use crate::files::upload;

/// A server whose files are in a folder that only it knows.
fn with_folder() -> (World, PathBuf) {
    let mut world = World::start();
    let folder = world.server.folder().join("files");
    world
        .server
        .restart_with(&[("ASSET_STORE_PATH", text(&folder))]);
    // This folder is from the first start.
    std::fs::remove_dir_all(world.server.data_dir().join("asset")).unwrap();
    (world, folder)
}

impl World {
    /// Runs a command with the setting of the server's folder.
    fn knowing(&self, folder: &Path, more: &[&str]) -> Output {
        let setting = format!("ASSET_STORE_PATH={}", text(folder));
        let begin = ["--set", &setting, "backup", text(&self.repository)];
        self.server.skytrail(&[&begin[..], more].concat())
    }
}

fn name_of(asset: &Json) -> &str {
    asset["$name"].as_str().unwrap()
}

#[test]
fn a_backup_that_does_not_know_where_the_files_are_is_none_that_is_whole() {
    let (world, folder) = with_folder();
    let asset = upload(&world.server, "note.txt", "text/plain", "elsewhere");
    said(&world.knowing(&folder, &["--keep", "1"]));
    upload(&world.server, "later.txt", "text/plain", "later");
    let whole = world.names();

    let failed = world.try_back_up(&["--keep", "1"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let told = refusal(&failed);
    assert!(told.contains("lacks 2 files"), "{told}");
    assert!(told.contains(name_of(&asset)), "{told}");
    let own = world.server.data_dir().join("asset");
    assert!(told.contains(text(&own)), "{told}");
    let names = world.names();
    assert_eq!(names.len(), 2, "the log is saved, and the whole one stays");
    assert_eq!(names[0], whole[0]);
    // A file that was missing once does not count as saved the next time.
    let again = world.try_back_up(&["--keep", "1"]);
    assert!(refusal(&again).contains("lacks 2 files"), "{again:?}");

    let listed = world.back_up(&["--list"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(!lines[0].contains("without"), "{listed}");
    assert!(lines[1].contains("without 2 files"), "{listed}");
    let verified = world.try_back_up(&["--verify"]);
    assert!(
        !lossy(&verified.stdout).contains("is whole"),
        "{verified:?}"
    );
    assert!(refusal(&verified).contains("lacks 2 files"), "{verified:?}");
    let restored = said(&world.try_restore("without", &[]));
    assert!(restored.contains("lacks 2 files"), "{restored}");

    let made = said(&world.knowing(&folder, &["--keep", "1"]));
    assert!(made.contains(&format!("removed {}", names[0])), "{made}");
    assert_eq!(world.names().len(), 1);
}

#[test]
fn a_folder_that_is_another_ones_does_not_make_a_backup_whole() {
    let (world, _) = with_folder();
    upload(&world.server, "note.txt", "text/plain", "elsewhere");
    let other = world.server.folder().join("other");
    std::fs::create_dir_all(other.join(".uploads")).unwrap();
    std::fs::write(other.join("something"), "else").unwrap();
    let failed = world.knowing(&other, &[]);
    assert!(refusal(&failed).contains("lacks 1 file"), "{failed:?}");
}

#[test]
fn a_file_that_was_only_announced_is_missed_only_where_there_is_no_folder() {
    let (world, folder) = with_folder();
    let body = json!({"filename": "never.txt", "content-type": "text/plain", "content-size": 5});
    world.master().call("asset:put", body).result();
    said(&world.knowing(&folder, &[]));
    let failed = world.try_back_up(&[]);
    assert!(refusal(&failed).contains("lacks 1 file"), "{failed:?}");
    said(&world.knowing(&folder, &[]));
}

#[test]
fn a_file_that_is_lost_is_named_until_it_is_back_and_one_that_was_erased_is_not() {
    let world = World::start();
    let upload = |name: &str| upload(&world.server, name, "text/plain", name);
    let (kept, erased) = (upload("kept.txt"), upload("erased.txt"));
    let master = world.master();
    master.save(
        "note/1",
        json!({"file": {"$type": "asset", "$name": name_of(&erased)}}),
    );
    world.back_up(&[]);

    let folder = world.server.data_dir().join("asset");
    let place = folder.join(name_of(&kept));
    std::fs::rename(&place, world.server.folder().join("aside")).unwrap();
    let erase = json!({"record": "note/1", "why": "asked for"});
    master.call("erase:record", erase).result();
    eventually("the file is erased", || {
        (!folder.join(name_of(&erased)).exists()).then_some(())
    });
    for _ in 0..2 {
        let failed = world.try_back_up(&["--keep", "1"]);
        let told = refusal(&failed);
        assert!(told.contains("lacks 1 file "), "{told}");
        assert!(told.contains(name_of(&kept)), "{told}");
    }
    // The backup that has it stays.
    assert_eq!(world.names().len(), 3);
    std::fs::rename(world.server.folder().join("aside"), &place).unwrap();
    world.back_up(&["--keep", "1"]);
    assert_eq!(world.names().len(), 1);
}

#[test]
fn what_only_somebody_else_has_put_into_the_folder_may_go_again() {
    let world = World::start();
    let stray = world.server.data_dir().join("asset/stray");
    std::fs::write(&stray, "x").unwrap();
    world.back_up(&[]);
    std::fs::remove_file(stray).unwrap();
    world.back_up(&[]);
}

#[test]
fn a_backup_says_in_which_bucket_its_files_are() {
    let world = World::start();
    let backup = ["backup", text(&world.repository)];
    let backup = [&BUCKET_FLAGS[..], &backup].concat();
    let made = said(&world.server.skytrail(&backup));
    assert!(made.contains("bucket pictures"), "{made}");
    let listed = world.back_up(&["--list"]);
    assert!(listed.contains("bucket pictures"), "{listed}");
}
