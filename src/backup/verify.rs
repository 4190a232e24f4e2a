//! Checks whether a backup can be restored.

use std::io;
use std::path::Path;

use skytrail_actors::log::disk::RealDisk;
use skytrail_actors::log::journal::archive::Until;
use skytrail_schema::chain;

use super::BackupError;
use super::local::Digesting;
use super::manifest::{Manifest, SavedFile};
use super::object::content;
use super::reading::Reading;
use super::repository::Repository;

/// Reads a whole backup as a restore would; returns [`Restored::num_lost_records`](super::Restored).
///
/// `scratch` is a folder that must not exist yet; it is removed afterwards.
///
/// # Errors
/// As [`restore`](super::restore()).
pub fn verify(
    repository: &Repository,
    manifest: &Manifest,
    scratch: &Path,
) -> Result<u64, BackupError> {
    let read = read_all(repository, manifest, scratch);
    let removed = std::fs::remove_dir_all(scratch);
    let num_lost_records = read?;
    removed.map_err(BackupError::io(scratch.display().to_string()))?;
    Ok(num_lost_records)
}

fn read_all(
    repository: &Repository,
    manifest: &Manifest,
    scratch: &Path,
) -> Result<u64, BackupError> {
    let failed = BackupError::io(scratch.display().to_string());
    let disk = RealDisk::new(scratch).map_err(failed)?;
    let mut reading = Reading::begin((repository, manifest), (scratch, &disk))?;
    let mut end = (0, chain::GENESIS);
    for segment_ref in &manifest.segments {
        // If the log was damaged when it was saved, the manifest says so.
        let follows = (end.0 + 1 == segment_ref.first).then_some(end.1);
        let fetched = reading.fetch(segment_ref, follows)?;
        end = (segment_ref.last, segment_ref.chain);
        let cut = fetched.segment.find_cut(Until::Position(segment_ref.last));
        let cut = cut.map_err(BackupError::io(&fetched.name))?;
        reading.take(&fetched, &cut)?;
        let place = scratch.join(fetched.name);
        let removed = std::fs::remove_file(&place);
        removed.map_err(BackupError::io(place.display().to_string()))?;
    }
    let num_lost_records = reading.lost.count();
    let source = &mut reading.source;
    for file in &manifest.files {
        source.read(|source| {
            if source.erased.contains(&file.path) {
                return Ok(());
            }
            read_through(repository, &content(&file.blake3), file)
        })?;
    }
    reading.check_keys()?;
    Ok(num_lost_records)
}

fn read_through(
    repository: &Repository,
    object: &str,
    file: &SavedFile,
) -> Result<(), BackupError> {
    let mut reading = Digesting::new(repository.open_object(object)?);
    io::copy(&mut reading, &mut io::sink()).map_err(BackupError::io(&file.path))?;
    reading.compare(object, file)
}
