//! A disk that loses power.
//!
//! The server's data is on a file system in an image file. The server is killed and the image is
//! copied as the block layer has it: data that was written but not flushed is only in the system's
//! memory and not in the copy. The server continues on the copy.

use std::path::{Path, PathBuf};

use super::machine::{Mount, make_image, run};

const IMAGE_MEGABYTES: u64 = 96;

/// A disk that loses power.
pub struct Disk {
    image: PathBuf,
    mount: Mount,
    folder: tempfile::TempDir,
    num_cuts: u64,
}

impl Disk {
    /// Creates an image and mounts it; the error says why that is not possible on this machine.
    pub fn new() -> Result<Self, String> {
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

    /// Returns the folder for the server's data.
    pub fn data(&self) -> String {
        let data = self.mount.folder().join("data");
        data.to_string_lossy().into_owned()
    }

    /// Continues with what was durable. The process that used the disk must just have been killed.
    pub fn lose_power(&mut self) {
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
