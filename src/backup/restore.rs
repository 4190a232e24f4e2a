//! Restores a backup, and checks whether that is possible.
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

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use skytrail_actors::log::disk::RealDisk;
use skytrail_actors::log::journal::JOURNAL_FOLDER;
use skytrail_actors::log::journal::archive::{
    Checked, Cut, LostRecords, SegmentFile, Until, file_name,
};
use skytrail_actors::log::{RESTORE_MARK, sync_folder};
use skytrail_schema::chain::{self, ChainHash};
use skytrail_schema::event::LogRestored;
use skytrail_schema::id::AssetName;
use skytrail_schema::time::Timestamp;

use super::catalog::{Catalog, holders};
use super::folder::{append, write};
use super::local::Digesting;
use super::manifest::{ErasedFiles, Manifest, SavedFile, SegmentRef, below};
use super::mark::mark;
use super::object::{SegmentName, content, short};
use super::repository::{Repository, TRIES, missing};
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
    /// The backup; see [`choose`].
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
    let mut reading = Reading {
        source: Source::look(repository, &manifest)?,
        folder: &folder,
        disk: &disk,
        num_erased: 0,
        num_sealed: 0,
        last_key: 0,
        lost: LostRecords::default(),
    };
    let cut = reading.log(plan.until, tell)?;
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
        let keys = keys::find(repository, (&manifest, &source.catalog))?;
        if let Some(saved) = &keys {
            save_as(repository, (&keys::object(saved), saved), &plan.to, write)?;
        }
        keys::check(repository, &manifest, keys.as_ref(), reading.last_key)
    })?;
    let has_less = reading.num_erased + reading.num_sealed > 0;
    let event = LogRestored {
        backup: manifest.name.clone(),
        head: manifest.head,
        until: cut.position,
    };
    let erased = source.erased.iter();
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

/// Reads a whole backup as a restore would; returns [`Restored::num_lost_records`].
///
/// `scratch` is a folder that must not exist yet; it is removed afterwards.
///
/// # Errors
/// As [`restore`].
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
    let mut reading = Reading {
        source: Source::look(repository, manifest)?,
        folder: scratch,
        disk: &disk,
        num_erased: 0,
        num_sealed: 0,
        last_key: 0,
        lost: LostRecords::default(),
    };
    let mut end = (0, chain::GENESIS);
    for segment_ref in &manifest.segments {
        // If the log was damaged when it was saved, the manifest says so.
        let follows = (end.0 + 1 == segment_ref.first).then_some(end.1);
        let fetched = reading.fetch(segment_ref, follows)?;
        end = (segment_ref.last, segment_ref.chain);
        let cut = fetched.segment.find_cut(Until::Position(segment_ref.last));
        let cut = cut.map_err(BackupError::io(&fetched.name))?;
        reading.take(&fetched, &cut)?;
        remove(&scratch.join(fetched.name))?;
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
    source.read(|source| {
        let keys = keys::find(repository, (manifest, &source.catalog))?;
        if let Some(saved) = &keys {
            read_through(repository, &keys::object(saved), saved)?;
        }
        keys::check(repository, manifest, keys.as_ref(), reading.last_key)
    })?;
    Ok(num_lost_records)
}

fn read_through(
    repository: &Repository,
    object: &str,
    file: &SavedFile,
) -> Result<(), BackupError> {
    let mut reading = Digesting::new(repository.open_object(object)?);
    io::copy(&mut reading, &mut io::sink()).map_err(BackupError::io(&file.path))?;
    compare((object, file), &reading)
}

/// A backup, and what else the repository has, as it was at one moment.
struct Source<'a> {
    repository: &'a Repository,
    manifest: &'a Manifest,
    catalog: Catalog,
    segments: Vec<SegmentName>,
    /// The files of the backup that were erased later.
    erased: BTreeSet<String>,
}

impl<'a> Source<'a> {
    fn look(repository: &'a Repository, manifest: &'a Manifest) -> Result<Self, BackupError> {
        let catalog = repository.catalog()?;
        if !catalog.has(&manifest.name) {
            let name = &manifest.name;
            return Err(BackupError::Refused(format!(
                "backup {name} was removed meanwhile, because newer ones replace it: try again"
            )));
        }
        let mut erased = ErasedFiles::default();
        let line = catalog.line(manifest);
        line.iter().for_each(|backup| erased.learn(backup));
        let files = manifest.files.iter().filter(|file| erased.contains(file));
        Ok(Self {
            erased: files.map(|file| file.path.clone()).collect(),
            segments: repository.segments()?,
            repository,
            manifest,
            catalog,
        })
    }

    /// Reads objects. A backup that is taken meanwhile may replace them: if one is missing, this
    /// looks again what there is.
    fn read<T>(
        &mut self,
        mut read: impl FnMut(&Self) -> Result<T, BackupError>,
    ) -> Result<T, BackupError> {
        for _ in 1..TRIES {
            match read(self) {
                Err(BackupError::Missing { .. }) => {
                    *self = Self::look(self.repository, self.manifest)?;
                }
                done => return done,
            }
        }
        read(self)
    }

    /// Returns the objects that may hold a segment, in the order in which to try them; with `true`
    /// if the one with the most erased events is to be used, because what was erased must not come
    /// back.
    fn holders(&self, segment: &SegmentRef) -> (Vec<SegmentName>, bool) {
        let own = holders(&self.catalog.line(self.manifest), segment);
        let is_there = own.iter().any(|name| self.segments.contains(name));
        if is_there || (!own.is_empty() && self.catalog.damaged().next().is_none()) {
            return (own, false);
        }
        // The backup is of an earlier build, or the one that names the object is unreadable. What
        // only other histories name may lack what they have erased.
        let is_named = |name: &SegmentName| {
            let mut segments = self.catalog.readable().flat_map(|it| &it.segments);
            segments.any(|it| it.digest.is_some() && it.has_named(name))
        };
        let all = self.segments.iter().filter(|name| name.may_hold(segment));
        let (named, unnamed): (Vec<_>, Vec<_>) = all.cloned().partition(is_named);
        match (unnamed.is_empty(), own.is_empty()) {
            (false, _) => (unnamed, true),
            (true, true) => (named, false),
            (true, false) => (own, false),
        }
    }
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

/// A segment that was fetched and is intact.
struct Fetched {
    name: String,
    segment: SegmentFile,
    /// The result of checking the whole segment.
    checked: Checked,
}

struct Reading<'a> {
    source: Source<'a>,
    folder: &'a Path,
    disk: &'a RealDisk,
    /// The number of events without their payloads in the fetched segments.
    num_erased: u64,
    /// The number of events that are sealed with their subjects' keys.
    num_sealed: u64,
    /// The highest key number that the wanted part of the log is sealed with.
    last_key: u64,
    /// The records that are unknown at the end of the fetched segments.
    lost: LostRecords,
}

impl Reading<'_> {
    /// Fetches the log up to its requested end, and prepares its last segment for further writes.
    fn log(&mut self, until: Until, tell: &mut dyn FnMut(Stage)) -> Result<Cut, BackupError> {
        let failed = || BackupError::io(self.folder.display().to_string());
        let manifest = self.source.manifest;
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
            let fetched = self.fetch(segment_ref, Some(end.1))?;
            let whole = Until::Position(segment_ref.last);
            let whole = fetched.segment.find_cut(whole).map_err(failed())?;
            let mut cut = fetched.segment.find_cut(until).map_err(failed())?;
            if cut.position > whole.position {
                cut = whole;
            }
            if cut.position < segment_ref.first {
                // No part of this segment is wanted.
                remove(&self.folder.join(fetched.name))?;
                return finish(last);
            }
            self.take(&fetched, &cut)?;
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

    /// Fetches a segment and checks all of it. `follows` is the chain hash before it.
    fn fetch(
        &mut self,
        segment_ref: &SegmentRef,
        follows: Option<ChainHash>,
    ) -> Result<Fetched, BackupError> {
        let place = (self.folder, self.disk);
        let (segment, checked) = self
            .source
            .read(|source| source.fetch(place, segment_ref, follows))?;
        self.num_erased += checked.num_erased;
        self.num_sealed += checked.num_sealed;
        Ok(Fetched {
            name: file_name(segment_ref.first),
            segment,
            checked,
        })
    }

    /// Notes which keys a segment needs up to a cut, and which records it has lost.
    fn take(&mut self, fetched: &Fetched, cut: &Cut) -> Result<(), BackupError> {
        let Fetched {
            segment, checked, ..
        } = fetched;
        let last_key = if cut.position == segment.last_position {
            checked.last_key
        } else {
            let checked = segment.cut_at(cut).check();
            checked
                .map_err(BackupError::segment(&fetched.name))?
                .last_key
        };
        self.last_key = self.last_key.max(last_key);
        // No record can be lost in this segment, and none has been lost that could be found again.
        if checked.num_erased == 0 && self.lost.count() == 0 {
            return Ok(());
        }
        let read = self.lost.read(&fetched.segment, cut.end);
        read.map_err(BackupError::io(&fetched.name))
    }
}

impl Source<'_> {
    /// Puts the segment that is to be used in place.
    fn fetch(
        &self,
        place: Place<'_>,
        segment_ref: &SegmentRef,
        follows: Option<ChainHash>,
    ) -> Result<(SegmentFile, Checked), BackupError> {
        let (holders, is_most_erased) = self.holders(segment_ref);
        let mut best: Option<(u64, &SegmentName)> = None;
        let mut wrong = None;
        for name in &holders {
            match self.look_at(place, name, segment_ref, follows) {
                Ok(found) if !is_most_erased || holders.len() == 1 => return Ok(found),
                Ok((_, it)) if best.is_none_or(|(erased, _)| it.num_erased > erased) => {
                    best = Some((it.num_erased, name));
                }
                Ok(_) => {}
                // If the newest one is missing, a newer one has replaced it.
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        if let Some((_, name)) = best {
            return self.look_at(place, name, segment_ref, follows);
        }
        Err(wrong.unwrap_or_else(|| {
            let SegmentRef { first, last, .. } = segment_ref;
            let chain = short(&segment_ref.chain);
            missing(&format!(
                "segments/{first:020}-{last:020}-{chain}-….journal"
            ))
        }))
    }

    fn look_at(
        &self,
        (folder, disk): Place<'_>,
        name: &SegmentName,
        segment_ref: &SegmentRef,
        follows: Option<ChainHash>,
    ) -> Result<(SegmentFile, Checked), BackupError> {
        let object = name.object();
        let file = file_name(name.first);
        let mut content = self.repository.open_object(&object)?;
        write(&folder.join(&file), &mut content).map_err(BackupError::io(&object))?;
        let segment = SegmentFile::open(disk, &file).map_err(BackupError::segment(&object))?;
        let damaged = |offset: u64, reason: &str| BackupError::Damaged {
            object: object.clone(),
            offset,
            reason: reason.to_owned(),
        };
        let checked = segment.check().map_err(BackupError::segment(&object))?;
        if let Some(damage) = checked.damage.first() {
            return Err(damaged(damage.offset, &damage.reason));
        }
        if segment.digest.is_none() {
            return Err(damaged(segment.end, "its seal is missing"));
        }
        let is_next = segment.store_id == self.manifest.store_id
            && segment.first_position == segment_ref.first
            && follows.is_none_or(|follows| follows == segment.previous_chain);
        if !is_next {
            return Err(damaged(0, "it does not follow the segment before it"));
        }
        let cut = segment.find_cut(Until::Position(segment_ref.last));
        let cut = cut.map_err(BackupError::io(&object))?;
        if (cut.position, cut.chain) != (segment_ref.last, segment_ref.chain) {
            let reason = format!("the chain hash at position {} differs", segment_ref.last);
            return Err(damaged(cut.end, &reason));
        }
        Ok((segment, checked))
    }
}

/// Where segments are put, as a path and as a disk.
type Place<'a> = (&'a Path, &'a RealDisk);

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
    compare((object, file), &reading)
}

fn compare<R>((object, file): (&str, &SavedFile), read: &Digesting<R>) -> Result<(), BackupError> {
    if read.digest() == file.blake3 {
        return Ok(());
    }
    let reason = if read.size == file.size {
        format!("its content differs from what {} had", file.path)
    } else {
        format!(
            "{} had {} bytes, it has {}",
            file.path, file.size, read.size
        )
    };
    Err(BackupError::Damaged {
        object: object.to_owned(),
        offset: read.size.min(file.size),
        reason,
    })
}

fn remove(path: &Path) -> Result<(), BackupError> {
    std::fs::remove_file(path).map_err(BackupError::io(path.display().to_string()))
}

fn sync(folder: &Path) -> Result<(), BackupError> {
    sync_folder(folder).map_err(BackupError::io(folder.display().to_string()))
}
