//! Power loss: the server's data lies on a file system in an image file. At a random moment under
//! load the server is killed and the image copied, as the block layer has it: what was only written
//! and not flushed is in the system's memory and not in the copy. The server goes on with the copy.
//!
//! `SKYTRAIL_POWER_CYCLES` sets the number of cuts; 5 by default.

use std::path::Path;

use crate::support::client::Client;
use crate::support::load::Load;
use crate::support::machine::{Mount, make_image, number, run, skipped};
use crate::support::server::TestServer;

const IMAGE_MEGABYTES: u64 = 96;

/// Makes the first image and mounts it; the error says why that is not possible here.
fn first_mount(folder: &Path) -> Result<Mount, String> {
    let image = folder.join("disk-0");
    make_image(&image, IMAGE_MEGABYTES)?;
    Mount::image(&folder.join("mount-0"), &image)
}

#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut mount = match first_mount(folder.path()) {
        Ok(mount) => mount,
        Err(why) => return skipped("power loss", &why),
    };
    let data = |mount: &Mount| mount.folder().join("data").to_string_lossy().into_owned();
    let mut server = TestServer::with(&[("DATA_DIR", &data(&mount))]);
    let client = Client::signed_up(&server, "writer");
    let load = Load::default();
    Load::prepare(&client);
    for cycle in 1..=number("SKYTRAIL_POWER_CYCLES", 5) {
        let before = folder.path().join(format!("disk-{}", cycle - 1));
        let after = folder.path().join(format!("disk-{cycle}"));
        load.run(&client.at(&server), 40 + (cycle * 71) % 300, || {
            server.kill();
        });
        let (from, to) = (before.to_string_lossy(), after.to_string_lossy());
        run("cp", &["--sparse=always", &from, &to]).unwrap();
        let next = Mount::image(&folder.path().join(format!("mount-{cycle}")), &after).unwrap();
        mount = next;
        std::fs::remove_file(before).unwrap();
        server.set("DATA_DIR", &data(&mount));
        server.restart();
        load.check(&client.at(&server), &format!("cut {cycle}"));
        let verified = server.skytrail(&["log", "verify"]);
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success(), "cut {cycle}: {said}");
    }
    assert!(load.num_acknowledged() > 0);
    server.kill();
}
