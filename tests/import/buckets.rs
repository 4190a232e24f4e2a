//! Files of v1 that are in a bucket, or move to one.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::{Move, Table, compare, said};
use crate::support::client::{Client, send};
use crate::support::s3::{Service, fetch};

const THERE: &str = "files-of-v1";
const HERE: &str = "files-of-ours";
const KEY: &str = "key-of-the-tests";
const HIDDEN: &str = "hidden-key-of-the-tests";

/// The files by name, with contents of the sizes in the database, and more than a part large.
fn files(moved: &Move) -> BTreeMap<String, Vec<u8>> {
    let sizes = compare::rows(
        &moved.database,
        "SELECT json_object_agg(id, size) FROM app_myapp._asset",
    );
    let content = |(name, size): (&String, &Json)| {
        let bytes = name.bytes().cycle();
        let size = usize::try_from(size.as_u64().unwrap()).unwrap();
        (name.clone(), bytes.take(size).collect())
    };
    sizes.as_object().unwrap().iter().map(content).collect()
}

/// Settings of a server whose files are in our bucket.
fn ours(service: &Service) -> [(&'static str, String); 5] {
    [
        ("ASSET_STORE", "s3".to_owned()),
        ("ASSET_STORE_BUCKET", HERE.to_owned()),
        ("ASSET_STORE_ACCESS_KEY", KEY.to_owned()),
        ("ASSET_STORE_SECRET_KEY", HIDDEN.to_owned()),
        ("ASSET_STORE_S3_ENDPOINT", service.endpoint.clone()),
    ]
}

fn import(moved: &Move, arguments: &[&str], settings: &[(&str, String)]) -> Table {
    let mut command = moved.command(arguments);
    command
        .env("SKYGEAR_ASSET_ACCESS_KEY", KEY)
        .env("SKYGEAR_ASSET_SECRET_KEY", HIDDEN);
    command.envs(settings.iter().map(|(name, value)| (*name, value)));
    Table::of_done(&command.output().unwrap())
}

fn put(service: &Service, name: &str, bytes: &[u8]) {
    let url = format!("{}/{THERE}/{name}", service.endpoint);
    let put = send("PUT", &url, &[], Some(bytes.to_vec())).unwrap();
    assert_eq!(put.status, 200);
}

fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    std::fs::create_dir(folder).unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

/// Serves what was imported, and downloads the file that a record names.
fn fetches(moved: &Move, files: &BTreeMap<String, Vec<u8>>, settings: &[(&str, String)]) {
    let settings = settings.iter();
    let settings: Vec<_> = settings.map(|(name, it)| (*name, it.as_str())).collect();
    let server = moved.serve(&settings);
    let pictures = Client::master(&server).query("asset_in_record_t", json!([]));
    let mut named = pictures.iter().map(|it| &it["pic"]);
    let picture = named.find(|pic| !pic.is_null()).unwrap();
    let fetched = fetch("GET", picture["$url"].as_str().unwrap(), &[]);
    assert_eq!(fetched.status, 200);
    assert_eq!(fetched.bytes, files[picture["$name"].as_str().unwrap()]);
    assert_eq!(
        fetched.header("Content-Type"),
        picture["$content_type"].as_str()
    );
}

const NAMED: &str =
    "UPDATE asset_in_record_t SET pic = (SELECT id FROM _asset WHERE id LIKE '%-pic.png')";

#[test]
fn files_come_from_a_bucket_into_a_bucket() {
    let service = Service::start(THERE);
    let made = format!("{}/{HERE}", service.endpoint);
    assert_eq!(fetch("PUT", &made, &[]).status, 200);
    // One is larger than a part, whatever the database says.
    let moved = Move::with(NAMED);
    let mut files = files(&moved);
    let (last, bytes) = files.iter_mut().next_back().unwrap();
    *bytes = b"0123456789abcdef".repeat(400_000);
    let last = last.clone();
    for (name, bytes) in files.iter().filter(|(name, _)| **name != last) {
        put(&service, name, bytes);
    }
    let endpoint = service.endpoint.as_str();
    let bucket = ["--assets-bucket", THERE, "--assets-endpoint", endpoint];
    let settings = ours(&service);
    let table = import(&moved, &bucket, &settings);
    assert_eq!(table.of("files"), [4, 3, 0, 0, 0, 1], "{}", table.0);
    put(&service, &last, &files[&last]);
    let table = import(&moved, &bucket, &settings);
    assert_eq!(table.of("files"), [4, 1, 0, 3, 0, 0], "{}", table.0);
    let table = import(&moved, &bucket, &settings);
    assert_eq!(table.of("files"), [4, 0, 0, 4, 0, 0], "{}", table.0);
    for (name, bytes) in &files {
        let here = fetch("GET", &format!("{made}/{name}"), &[]);
        assert_eq!(here.status, 200, "{name}");
        assert!(here.bytes == *bytes, "{name}");
    }
    fetches(&moved, &files, &settings);
}

#[test]
fn files_come_from_a_bucket_into_a_folder_and_from_a_folder_into_a_bucket() {
    let service = Service::start(THERE);
    let moved = Move::with(NAMED);
    let files = files(&moved);
    for (name, bytes) in &files {
        put(&service, name, bytes);
    }
    let endpoint = service.endpoint.as_str();
    let bucket = ["--assets-bucket", THERE, "--assets-endpoint", endpoint];
    let table = import(&moved, &bucket, &[]);
    assert_eq!(table.of("files"), [4, 4, 0, 0, 0, 0], "{}", table.0);
    fetches(&moved, &files, &[]);

    let moved = Move::with(NAMED);
    let made = format!("{endpoint}/{HERE}");
    assert_eq!(fetch("PUT", &made, &[]).status, 200);
    let folder = moved.folder.path().join("files of v1");
    write(&folder, &files);
    let from = ["--assets-from", &folder.to_string_lossy()];
    let settings = ours(&service);
    let table = import(&moved, &from, &settings);
    assert_eq!(table.of("files"), [4, 4, 0, 0, 0, 0], "{}", table.0);
    fetches(&moved, &files, &settings);
}

#[test]
fn a_bucket_that_is_not_there_is_said_before_anything_is_imported() {
    let service = Service::start(THERE);
    let moved = Move::with("");
    let endpoint = service.endpoint.as_str();
    let mut command = moved.command(&["--assets-bucket", "other", "--assets-endpoint", endpoint]);
    command
        .env("SKYGEAR_ASSET_ACCESS_KEY", KEY)
        .env("SKYGEAR_ASSET_SECRET_KEY", HIDDEN);
    let done = command.output().unwrap();
    assert!(!done.status.success());
    assert!(said(&done).contains("bucket other"), "{}", said(&done));
}
