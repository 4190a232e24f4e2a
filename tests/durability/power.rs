//! Power loss: the server's data lies on a file system in an image file. At a random moment under
//! load the server is killed and the image copied, as the block layer has it: what was only written
//! and not flushed is in the system's memory and not in the copy. The server goes on with the copy.
//!
//! `SKYTRAIL_POWER_CYCLES` sets the number of cuts; 5 by default.

use std::path::{Path, PathBuf};

use crate::support::client::Client;
use crate::support::load::Load;
use crate::support::machine::{Mount, make_image, number, run, skipped, strace};
use crate::support::server::TestServer;

const IMAGE_MEGABYTES: u64 = 96;

/// A disk that loses power.
struct Disk {
    image: PathBuf,
    mount: Mount,
    folder: tempfile::TempDir,
    num_cuts: u64,
}

impl Disk {
    /// Makes an image and mounts it; the error says why that is not possible here.
    fn new() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = folder.path().join("disk-0");
        make_image(&image, IMAGE_MEGABYTES)?;
        Ok(Self {
            mount: Mount::image(&folder.path().join("mount-0"), &image)?,
            image,
            folder,
            num_cuts: 0,
        })
    }

    fn data(&self) -> String {
        let data = self.mount.folder().join("data");
        data.to_string_lossy().into_owned()
    }

    /// Goes on with what was durable. Whoever used the disk must have been killed just now.
    fn lose_power(&mut self) {
        self.num_cuts += 1;
        let path = |name: &str| self.folder.path().join(format!("{name}-{}", self.num_cuts));
        let image = path("disk");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let copied = run(
            "cp",
            &["--sparse=always", &text(&self.image), &text(&image)],
        );
        copied.unwrap();
        self.mount = Mount::image(&path("mount"), &image).unwrap();
        std::fs::remove_file(&self.image).unwrap();
        self.image = image;
    }
}

#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let mut disk = match Disk::new() {
        Ok(disk) => disk,
        Err(why) => return skipped("power loss", &why),
    };
    let mut server = TestServer::with(&[("DATA_DIR", &disk.data())]);
    let client = Client::signed_up(&server, "writer");
    let load = Load::default();
    Load::prepare(&client);
    for cycle in 1..=number("SKYTRAIL_POWER_CYCLES", 5) {
        load.run(&client.at(&server), 40 + (cycle * 71) % 300, || {
            server.kill();
        });
        disk.lose_power();
        server.set("DATA_DIR", &disk.data());
        server.restart();
        load.check(&client.at(&server), &format!("cut {cycle}"));
        let verified = server.skytrail(&["log", "verify"]);
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success(), "cut {cycle}: {said}");
    }
    assert!(load.num_acknowledged() > 0);
    server.kill();
}

/// The test above would notice: a server whose flushes do nothing loses what it acknowledged.
#[test]
fn a_power_cut_takes_what_was_not_flushed() {
    let (mut disk, strace) = match (Disk::new(), strace()) {
        (Ok(disk), Ok(strace)) => (disk, strace),
        (Err(why), _) | (_, Err(why)) => return skipped("power loss without flushes", &why),
    };
    let mut server = TestServer::with(&[("DATA_DIR", &disk.data())]);
    let client = Client::signed_up(&server, "writer");
    Load::prepare(&client);
    assert!(server.terminate().success());
    let nothing = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:retval=0"];
    let tracer = [&strace, "-D", "-q", "-f", "-o", "/dev/null"];
    server.wrap(&[&tracer[..], &nothing].concat());
    server.restart();
    let load = Load::default();
    load.run(&client.at(&server), 100, || server.kill());
    disk.lose_power();
    server.wrap(&[]);
    server.set("DATA_DIR", &disk.data());
    server.restart();
    let lost = load.compare(&client.at(&server));
    assert!(!lost.is_empty(), "unflushed writes survived a power cut");
    server.kill();
}
