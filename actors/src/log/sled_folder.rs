//! The folders of sled stores.
//!
//! There is one folder, unless a sled that does not answer still has it. Then the next store gets
//! another one, because sled writes some files by their paths even after the folder was removed.
//! The next start moves the newest folder to the usual place.

use std::io;
use std::path::{Path, PathBuf};

/// The ending of a folder that was set aside.
const ASIDE: &str = "damaged";

pub(super) struct SledFolders {
    /// The usual place of a store.
    base: PathBuf,
    /// How many folders were left to a sled that does not answer.
    num_left: u64,
}

impl SledFolders {
    /// Manages the folders of the stores at `base`.
    pub(super) fn new(base: &Path) -> Self {
        Self {
            base: base.to_owned(),
            num_left: 0,
        }
    }

    /// Moves a store that an earlier process left elsewhere to the usual place.
    pub(super) fn adopt(&self) {
        let mut folders = self.others().unwrap_or_default();
        folders.sort_unstable_by_key(|(number, _)| *number);
        let Some((_, newest)) = folders.pop() else {
            return;
        };
        let adopted = folders
            .iter()
            .map(|(_, folder)| folder.as_path())
            .chain([self.base.as_path()])
            .try_for_each(remove)
            .and_then(|()| std::fs::rename(newest, &self.base));
        if let Err(error) = adopted {
            tracing::warn!(
                %error,
                "an earlier sled folder could not be moved back; sled is filled again"
            );
        }
    }

    /// Returns the folder of the store in use.
    pub(super) fn current(&self) -> PathBuf {
        match self.num_left {
            0 => self.base.clone(),
            number => self.named(&format!("-{number}")),
        }
    }

    /// Leaves the folder to the sled that has it; the next store gets another one.
    pub(super) fn leave(&mut self) {
        self.num_left += 1;
    }

    /// Moves a damaged store out of the way; returns where to. A store that was moved earlier is
    /// removed: the journal has everything, and what is kept for inspection must not fill the disk.
    pub(super) fn quarantine(&self) -> io::Result<Option<PathBuf>> {
        let aside = self.base.with_extension(ASIDE);
        let mut moved = None;
        let others = self.others()?.into_iter().map(|(_, folder)| folder);
        for folder in others.chain([self.base.clone()]) {
            if folder.exists() {
                remove(&aside)?;
                std::fs::rename(&folder, &aside)?;
                moved = Some(aside.clone());
            }
        }
        Ok(moved)
    }

    /// Removes all stores, including those that were moved out of the way.
    pub(super) fn throw_away(&self) -> io::Result<()> {
        remove(&self.base)?;
        remove(self.base.with_extension(ASIDE))?;
        let others = self.others()?.into_iter();
        others
            .map(|(_, folder)| folder)
            .try_for_each(|folder| remove(&folder))
    }

    fn named(&self, ending: &str) -> PathBuf {
        let mut name = self.base.as_os_str().to_owned();
        name.push(ending);
        name.into()
    }

    /// Lists the additional folders of stores.
    fn others(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let prefix = self.named("-");
        let prefix = prefix.to_string_lossy();
        let mut found = Vec::new();
        let Some(parent) = self.base.parent().filter(|parent| parent.exists()) else {
            return Ok(found);
        };
        for entry in std::fs::read_dir(parent)? {
            let path = entry?.path();
            let text = path.to_string_lossy();
            let number = text.strip_prefix(&*prefix).and_then(|it| it.parse().ok());
            if let Some(number) = number {
                found.push((number, path));
            }
        }
        Ok(found)
    }
}

fn remove(folder: impl AsRef<Path>) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_alone_keeps_its_folder_until_the_next_start() {
        let home = tempfile::tempdir().unwrap();
        let base = home.path().join("sled");
        let mut folders = SledFolders::new(&base);
        assert_eq!(folders.current(), base);
        std::fs::create_dir_all(base.join("old")).unwrap();
        folders.leave();
        folders.leave();
        let newest = folders.current();
        assert_eq!(newest, home.path().join("sled-2"));
        std::fs::create_dir_all(newest.join("new")).unwrap();
        std::fs::create_dir_all(home.path().join("sled-1/between")).unwrap();

        let folders = SledFolders::new(&base);
        folders.adopt();
        let names = |folder: &Path| {
            let entries = std::fs::read_dir(folder).unwrap();
            let mut names: Vec<_> = entries.map(|it| it.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(home.path()), ["sled"]);
        assert_eq!(names(&base), ["new"]);
        assert_eq!(
            folders.quarantine().unwrap().unwrap(),
            base.with_extension(ASIDE)
        );
        assert_eq!(names(home.path()), ["sled.damaged"]);
        folders.throw_away().unwrap();
        assert!(names(home.path()).is_empty());
    }
}
