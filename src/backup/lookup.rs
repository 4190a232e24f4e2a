//! Looks for the files that the log knows.
//!
//! The folder of files is a setting, and for the command `backup` it may differ from the server's.
//! A backup would then lack the files that people expect in it. So a backup is checked against the
//! log: a file whose bytes were uploaded has to exist unless an erasure has named it. A file that
//! was only announced need not exist, because its bytes may never have arrived.
//!
//! What an earlier backup has checked is not read again while nothing is missing: that backup knows
//! the files of its time, saved or missing.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use skytrail_actors::log::journal::archive::{KnownFiles, Survey};
use skytrail_schema::id::AssetName;

use super::BackupError;
use super::manifest::{ErasedFiles, Manifest, MissingFiles, SavedFile};
use crate::asset::{ERASED, UPLOADS};
use crate::config::ASSET_FOLDER;

/// Finds the files that the log knows and that are not among those saved from `folder`. `last` is
/// the last backup of this log.
pub(super) fn find_missing(
    folder: &Path,
    (survey, last): (&Survey, Option<&Manifest>),
    saved: &[Arc<SavedFile>],
) -> Result<Option<MissingFiles>, BackupError> {
    let there = There::of(folder, saved);
    let last = last.filter(|last| last.has_looked_for_files);
    let earlier = last.map(Manifest::known_files).unwrap_or_default();
    if let Some(last) = last {
        let lately = read(survey, last.head + 1)?;
        let uploaded = lately.uploaded.iter().map(AssetName::as_str);
        let mut files = uploaded.chain(earlier.iter().map(String::as_str));
        if !there.is_other_folder && !files.any(|name| there.misses(name, &lately)) {
            return Ok(None);
        }
    }
    // Only the whole log tells whether it knows a file that an earlier backup found in the folder.
    let files = read(survey, 0)?;
    let (mut names, mut num_announced) = (Vec::new(), 0);
    for name in files.announced.union(&files.uploaded) {
        if !there.misses(name.as_str(), &files) {
            continue;
        }
        if files.uploaded.contains(name) || earlier.contains(name.as_str()) {
            names.push(name.to_string());
        } else {
            num_announced += u64::from(there.is_other_folder);
        }
    }
    let missing = MissingFiles {
        folder: folder.display().to_string(),
        is_other_folder: there.is_other_folder,
        names,
        num_announced,
    };
    Ok((missing.count() > 0).then_some(missing))
}

fn read(survey: &Survey, from: u64) -> Result<KnownFiles, BackupError> {
    let mut files = KnownFiles::default();
    for segment in &survey.segments {
        let read = files.read(segment, from);
        read.map_err(BackupError::io(segment.name.clone()))?;
    }
    Ok(files)
}

/// The content of the folder of files.
struct There<'a> {
    names: BTreeSet<&'a Path>,
    erased: ErasedFiles,
    /// Whether, as far as can be seen, no server keeps files in this folder.
    is_other_folder: bool,
}

impl<'a> There<'a> {
    fn of(folder: &Path, saved: &'a [Arc<SavedFile>]) -> Self {
        let paths = saved.iter().map(|file| Path::new(&file.path));
        let names = paths.filter_map(|path| path.strip_prefix(ASSET_FOLDER).ok());
        let names: BTreeSet<&Path> = names.filter(|name| !name.starts_with(ERASED)).collect();
        let mut erased = ErasedFiles::default();
        erased.learn_from(saved);
        // At its start, a server creates its folder, and one for uploads in it. A restored folder
        // has files.
        let is_other_folder = !folder.join(UPLOADS).is_dir() && names.is_empty();
        Self {
            names,
            erased,
            is_other_folder,
        }
    }

    fn misses(&self, name: &str, files: &KnownFiles) -> bool {
        !self.names.contains(Path::new(name))
            && !self.erased.has(name)
            && !files.erased.contains(name)
    }
}
