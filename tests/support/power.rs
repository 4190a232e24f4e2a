//! A disk that loses power: the server's data lies on a file system in an image file. The server is
//! killed and the image copied, as the block layer has it: what was only written and not flushed is
//! in the system's memory and not in the copy. The server goes on with the copy.

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
    /// Makes an image and mounts it; the error says why that is not possible here.
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

    /// Goes on with what was durable. Whoever used the disk must have been killed just now.
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
