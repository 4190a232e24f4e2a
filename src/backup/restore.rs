//! Restores a backup.
//!
//! 1. The manifest is checked. Then every segment is checked as it arrives: its seal, every frame,
//!    every payload's hash, and the chain from the previous segment.
//! 2. The log is cut after the last commit that is wanted.
//! 3. The files follow, each checked against its digest, and the subjects' keys of the newest
//!    backup: an erased subject stays erased. In the ops store, no consumer is left beyond the end
//!    of the log.
//! 4. An event is appended to the log that says from which backup it was restored, and up to where.
//! 5. A marker file says that the restore is not finished, until it is: no server starts on an
//!    unfinished one.
//!
//! The next start builds sled and the record store from the log.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use skytrail_actors::log::disk::RealDisk;
use skytrail_actors::log::journal::JOURNAL_FOLDER;
use skytrail_actors::log::journal::archive::{Cut, SegmentFile, Until};
use skytrail_actors::log::{RESTORE_MARK, sync_folder};
use skytrail_schema::chain::{self, ChainHash};
use skytrail_schema::event::LogRestored;
use skytrail_schema::id::AssetName;
use skytrail_schema::time::Timestamp;

use super::folder::{append, write};
use super::local::Digesting;
use super::manifest::{Manifest, SavedFile, below};
use super::mark::mark;
use super::object::content;
use super::reading::Reading;
use super::repository::Repository;
use super::{BackupError, keys};
use crate::config::ASSET_FOLDER;
use crate::ops_store;
use crate::ops_store::OPS_STORE_FILE;
use crate::proof::{NOTES_FILE, Notes};

/// What to restore.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The target folder, which must be empty.
    pub to: PathBuf,
    /// The backup; see [`choose`](super::choose::choose).
    pub backup: Manifest,
    /// Where the log is to end.
    pub until: Until,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The backup.
    pub manifest: Manifest,
    /// The last position that was restored; the event that says so follows it.
    pub head: u64,
    /// The chain hash at that position.
    pub chain: ChainHash,
    /// The time of the last commit.
    pub time: Option<Timestamp>,
    /// The number of files, not counting the log.
    pub num_files: usize,
    /// The number of files in [`ASSET_FOLDER`].
    pub num_assets: usize,
    /// The number of events that are blank because they were erased after the new end of the log.
    /// An event in the restored log says so.
    pub num_erased_later: u64,
    /// The number of records that existed at the end but are not known any more: their state at
    /// that time was dropped by retention, or erased, later.
    pub num_lost_records: u64,
}

/// The progress of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The log is being fetched and checked.
    Log {
        /// The position so far.
        position: u64,
        /// The last position of the backup.
        head: u64,
    },
    /// The files are being fetched.
    Files {
        /// The number of files fetched so far.
        done: usize,
        /// The number of all files.
        all: usize,
    },
}

/// Restores a backup, and reports the progress.
///
/// # Errors
/// The folder is not empty; the backup is damaged, with file and offset; it does not reach that
/// far; or the log was damaged when it was saved.
pub fn restore(
    repository: &Repository,
    plan: &Plan,
    tell: &mut dyn FnMut(Stage),
) -> Result<Restored, BackupError> {
    let manifest = plan.backup.clone();
    if let Until::Position(position) = plan.until
        && position > manifest.head
    {
        return Err(BackupError::Refused(format!(
            "backup {} ends at position {}, before {position}",
            manifest.name, manifest.head
        )));
    }
    let unfinished = begin(&plan.to)?;
    let folder = plan.to.join(JOURNAL_FOLDER);
    let disk = RealDisk::new(&folder).map_err(BackupError::io(folder.display().to_string()))?;
    let mut reading = Reading::begin((repository, &manifest), (&folder, &disk))?;
    let cut = fetch_log(&mut reading, plan.until, tell)?;
    let all = manifest.files_in_pieces().count();
    let source = &mut reading.source;
    let (mut num_files, mut num_assets) = (0, 0);
    for (done, pieces) in manifest.files_in_pieces().enumerate() {
        tell(Stage::Files { done, all });
        let Some(file) = pieces.first() else {
            continue;
        };
        let is_there = source.read(|source| {
            let is_there = !source.erased.contains(&file.path);
            let mut how: Write = write;
            for piece in pieces.iter().filter(|_| is_there) {
                save_as(repository, (&content(&piece.blake3), piece), &plan.to, how)?;
                how = append;
            }
            Ok(is_there)
        })?;
        let is_asset = Path::new(&file.path).starts_with(ASSET_FOLDER);
        num_files += usize::from(is_there);
        num_assets += usize::from(is_there && is_asset);
    }
    source.read(|source| {
        let saved = source.find_keys()?;
        saved.map_or(Ok(()), |saved| {
            save_as(repository, (&keys::object(&saved), &saved), &plan.to, write)
        })
    })?;
    reading.check_keys()?;
    let has_less = reading.num_erased + reading.num_sealed > 0;
    let event = LogRestored {
        backup: manifest.name.clone(),
        head: manifest.head,
        until: cut.position,
    };
    let erased = reading.source.erased.iter();
    let erased = erased.filter_map(|path| below(ASSET_FOLDER, path));
    let erased = erased.filter_map(AssetName::clean).collect();
    let num_erased_later = mark(&plan.to, event, has_less, erased)?;
    let notes = Notes::of(&plan.to).cut(cut.position);
    notes.map_err(BackupError::io(NOTES_FILE))?;
    cut_ops_store(&plan.to.join(OPS_STORE_FILE), cut.position)?;
    sync(&folder)?;
    remove(&unfinished)?;
    sync(&plan.to)?;
    Ok(Restored {
        head: cut.position,
        chain: cut.chain,
        time: cut.time,
        num_files,
        num_assets,
        num_erased_later,
        num_lost_records: reading.lost.count(),
        manifest,
    })
}

/// Moves back every consumer that has received more than the log now has.
fn cut_ops_store(path: &Path, head: u64) -> Result<(), BackupError> {
    if !path.exists() {
        return Ok(());
    }
    let failed = BackupError::io(path.display().to_string());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let cut = runtime.and_then(|runtime| {
        let cut = runtime.block_on(ops_store::cut(path, head));
        cut.map_err(io::Error::other)
    });
    cut.map_err(failed)
}

/// Creates the folder, and marks it as unfinished.
fn begin(to: &Path) -> Result<PathBuf, BackupError> {
    let failed = || BackupError::io(to.display().to_string());
    match std::fs::read_dir(to) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                let to = to.display();
                return Err(BackupError::Refused(format!("{to} is not empty")));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut builder = std::fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(to)
                .map_err(failed())?;
        }
        Err(error) => return Err(failed()(error)),
    }
    let mark = to.join(RESTORE_MARK);
    let mut file = File::create(&mark).map_err(failed())?;
    file.write_all(b"a restore into this folder was begun\n")
        .and_then(|()| file.sync_all())
        .map_err(failed())?;
    sync(to)?;
    Ok(mark)
}

/// Fetches the log up to its requested end, and prepares its last segment for further writes.
fn fetch_log(
    reading: &mut Reading<'_>,
    until: Until,
    tell: &mut dyn FnMut(Stage),
) -> Result<Cut, BackupError> {
    let (folder, manifest) = (reading.folder, reading.source.manifest);
    let failed = || BackupError::io(folder.display().to_string());
    let mut end = (0, chain::GENESIS);
    let mut last: Option<(SegmentFile, Cut)> = None;
    for segment_ref in &manifest.segments {
        if segment_ref.first != end.0 + 1 {
            break;
        }
        let head = manifest.head;
        tell(Stage::Log {
            position: end.0,
            head,
        });
        let fetched = reading.fetch(segment_ref, Some(end.1))?;
        let whole = Until::Position(segment_ref.last);
        let whole = fetched.segment.find_cut(whole).map_err(failed())?;
        let mut cut = fetched.segment.find_cut(until).map_err(failed())?;
        if cut.position > whole.position {
            cut = whole;
        }
        if cut.position < segment_ref.first {
            // No part of this segment is wanted.
            remove(&folder.join(fetched.name))?;
            return finish(last);
        }
        reading.take(&fetched, &cut)?;
        // This is the last segment unless another one follows.
        let is_all = cut.position == segment_ref.last;
        end = (cut.position, cut.chain);
        last = Some((fetched.segment, cut));
        if !is_all {
            return finish(last);
        }
    }
    let is_complete = match until {
        Until::Position(position) => end.0 >= position,
        Until::End | Until::Time(_) => manifest.damage.is_empty(),
    };
    let damage = manifest.first_damage().filter(|_| !is_complete);
    if let Some(damage) = damage {
        return Err(BackupError::SavedDamaged(damage.clone(), end.0));
    }
    finish(last)
}

/// Prepares the last segment so that the server can continue it.
fn finish(last: Option<(SegmentFile, Cut)>) -> Result<Cut, BackupError> {
    let nothing = || BackupError::Refused("the log has nothing before that".to_owned());
    let (segment, cut) = last.ok_or_else(nothing)?;
    let reopened = segment.reopen_at(&cut);
    reopened.map_err(BackupError::io(segment.name.clone()))?;
    Ok(cut)
}

/// Writes what is read to a place.
type Write = fn(&Path, &mut dyn Read) -> io::Result<()>;

/// Restores a file, or a piece of one, to its place.
fn save_as(
    repository: &Repository,
    (object, file): (&str, &SavedFile),
    to: &Path,
    write: Write,
) -> Result<(), BackupError> {
    let path = Path::new(&file.path);
    let is_inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !is_inside || file.path.is_empty() {
        let path = &file.path;
        return Err(BackupError::Refused(format!(
            "{path:?} is outside the data folder"
        )));
    }
    let place = to.join(path);
    let failed = || BackupError::io(place.display().to_string());
    let folder = place.parent().unwrap_or(to);
    std::fs::create_dir_all(folder).map_err(failed())?;
    let mut reading = Digesting::new(repository.open_object(object)?);
    write(&place, &mut reading).map_err(failed())?;
    reading.compare(object, file)
}

fn remove(path: &Path) -> Result<(), BackupError> {
    std::fs::remove_file(path).map_err(BackupError::io(path.display().to_string()))
}

fn sync(folder: &Path) -> Result<(), BackupError> {
    sync_folder(folder).map_err(BackupError::io(folder.display().to_string()))
}
