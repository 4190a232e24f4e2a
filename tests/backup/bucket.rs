//! Backups in a bucket.

use super::*;
use crate::support::s3::Service;

pub(super) const BUCKET: &str = "backups-of-the-tests";

pub(super) struct Place<'a> {
    pub(super) service: &'a Service,
    pub(super) server: &'a TestServer,
}

impl Place<'_> {
    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        self.run_at(&self.service.endpoint, arguments)
    }

    /// Runs a command that reaches the service at another address.
    pub(super) fn run_at(&self, endpoint: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command
            .env_clear()
            .env("DATA_DIR", self.server.data_dir())
            .env("BACKUP_TARGET", format!("s3://{BUCKET}/chat"))
            .env("BACKUP_S3_ACCESS_KEY", "key-of-the-tests")
            .env("BACKUP_S3_SECRET_KEY", "hidden-key-of-the-tests")
            .env("BACKUP_S3_ENDPOINT", endpoint);
        command.args(arguments).output().unwrap()
    }
}

#[test]
fn a_bucket_has_the_same_backups_as_a_folder() {
    let service = Service::start(BUCKET);
    let world = World::start();
    let place = Place {
        service: &service,
        server: &world.server,
    };
    let client = Client::signed_up(&world.server, "writer");
    // More than fits into one part.
    let file = world.server.data_dir().join("asset/large.bin");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let large: Vec<u8> = (0..9_u32 << 20).map(|n| (n % 251) as u8).collect();
    std::fs::write(&file, &large).unwrap();
    world.fill(&client, "first");
    said(&place.run(&["backup"]));
    client.save("single/1", json!({"number": 1}));
    let until = world.head();
    let second = said(&place.run(&["backup"]));
    assert!(second.contains("copied 1 segments and 0 files"), "{second}");
    said(&place.run(&["backup", "--verify"]));
    let listed = service.look("list-type=2");
    assert!(listed.contains("<Key>chat/backups/"), "{listed}");
    let to = world.server.folder().join("restored");
    said(&place.run(&["restore", &format!("s3://{BUCKET}/chat"), "--to", text(&to)]));
    let restored = TestServer::with(&[("DATA_DIR", text(&to))]);
    compare(&restored, &world.server, until);
    assert!(std::fs::read(to.join("asset/large.bin")).unwrap() == large);

    client.save("single/1", json!({"number": 2}));
    let third = said(&place.run(&["backup", "--keep", "1"]));
    assert!(third.contains("removed"), "{third}");
    assert_eq!(
        service.look("list-type=2").matches("chat/backups/").count(),
        1
    );
    said(&place.run(&["backup", "--verify"]));
}

#[test]
fn a_copy_shares_a_bucket_with_its_original_until_its_backups_are_dropped() {
    let service = Service::start(BUCKET);
    let world = World::start();
    let place = Place {
        service: &service,
        server: &world.server,
    };
    let client = Client::signed_up(&world.server, "writer");
    client.save("single/1", json!({"text": "original"}));
    world.fill(&client, "sealed");
    let until = world.head();
    said(&place.run(&["backup"]));
    let to = world.server.folder().join("copy");
    let target = format!("s3://{BUCKET}/chat");
    said(&place.run(&["restore", &target, "--to", text(&to)]));
    let copy = TestServer::with(&[("DATA_DIR", text(&to))]);
    let body = json!({"record": "single/1", "why": "a trial"});
    Client::master(&copy).call("erase:record", body).result();
    let copied = Place {
        service: &service,
        server: &copy,
    };
    for _ in 0..2 {
        let told = said(&copied.run(&["backup", "--keep", "1"]));
        assert!(told.contains("another history"), "{told}");
    }
    let listed = said(&place.run(&["backup", "--list"]));
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|it| it.split(' ').next())
        .collect();
    assert_eq!(names.len(), 2, "{listed}");
    let to = world.server.folder().join("restored");
    said(&place.run(&["restore", &target, "--to", text(&to), "--backup", names[0]]));
    let restored = TestServer::with(&[("DATA_DIR", text(&to))]);
    compare(&restored, &world.server, until);
    assert_eq!(records(&restored, &Json::Null)[0][0]["text"], "original");

    let told = said(&place.run(&["backup", "--forget", names[1]]));
    assert!(told.contains(&format!("removed {}", names[1])), "{told}");
    assert!(!told.contains("another history"), "{told}");
    said(&place.run(&["backup", "--verify"]));
}

#[test]
fn a_bucket_that_is_not_there_is_named() {
    let service = Service::start(BUCKET);
    let world = World::start();
    let place = Place {
        service: &service,
        server: &world.server,
    };
    let refused = refusal(&place.run(&["backup", "s3://nowhere/x"]));
    assert!(refused.contains("s3://nowhere/x"), "{refused}");
    assert!(!refused.contains("hidden-key"), "{refused}");
}
