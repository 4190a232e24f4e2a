//! Takes a backup.
//!
//! 1. The ops store is copied before anything else, because it must not be ahead of the log. If it
//!    cannot be copied, the backup is taken without it, and says so.
//! 2. The log is surveyed, and what is missing in the repository is checked and copied.
//! 3. The files follow: every file that the log names existed before. If one is missing, the backup
//!    says so (`lookup`).
//! 4. The subjects' keys follow in their current state. If they cannot be saved, the backup says
//!    so.
//! 5. The manifest completes the backup. If an object that was found there is gone meanwhile, the
//!    backup is taken again.
//! 6. What is no longer needed is removed (`sweep`).

mod files;
mod segments;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skytrail_actors::log::journal::archive::{Survey, Until};
use skytrail_schema::chain::{self, ChainHash};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use self::segments::Log;
use super::catalog::Catalog;
use super::history::{self, History};
use super::local::{Local, OpsStoreCopy, Turn};
use super::manifest::{self, Beginning, Manifest, MissingFiles, SavedFile, SegmentRef};
use super::object::{KEYS, SEGMENTS, SegmentName};
use super::repository::{Repository, TRIES, manifest_object, missing};
use super::{BackupError, keys, lookup, sweep};
use crate::proof::{KEY_FILE, LogKey};

/// The progress of a backup.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The number of bytes copied so far.
    pub bytes: u64,
}

/// What kind of a backup to take.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The present time.
    pub now: Timestamp,
    /// How many backups of this log's history to keep; 0 for all.
    pub keep: usize,
    /// A backup of another history to remove, together with those before it.
    pub forget: Option<&'a str>,
}

/// A backup that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The manifest.
    pub manifest: Manifest,
    /// The number of bytes copied.
    pub copied_bytes: u64,
    /// The number of segments copied.
    pub num_copied_segments: usize,
    /// The number of files copied.
    pub num_copied_files: usize,
    /// Backups that were removed because there are newer ones, or on request.
    pub removed: Vec<String>,
    /// Backups of another history.
    pub foreign: Vec<String>,
    /// Messages for the administrator.
    pub notes: Vec<String>,
}

/// Takes a backup, and removes old ones. The copy of the ops store is removed, too.
///
/// # Errors
/// Something cannot be read or written, or the repository is another store's; or the backup to
/// forget does not exist, or is or may be of this log's history. Damage of the log is not an error,
/// nor is an ops store that cannot be copied, nor are damaged subjects' keys, nor missing files: the
/// rest is saved, and the manifest says what is missing.
pub fn back_up(
    local: &Local,
    turn: Turn,
    repository: &Repository,
    wanted: &Wanted<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Taken, BackupError> {
    let done = save(local, repository, wanted, progress);
    // Also removes the remains of a failed copy.
    let _ = std::fs::remove_file(local.ops_store_copy());
    drop(turn);
    done
}

fn save(
    local: &Local,
    repository: &Repository,
    wanted: &Wanted<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Taken, BackupError> {
    let survey = local.survey()?;
    let store_id = survey.segments.last().map(|segment| segment.store_id);
    let store_id = store_id.ok_or_else(|| {
        let place = local.data_dir.display();
        BackupError::Refused(format!("no segment of the log in {place} is readable"))
    })?;
    repository.claim(store_id)?;
    let catalog = repository.catalog()?;
    let history = History::of(&survey, &catalog)?;
    let own = history.own(&catalog)?;
    if let Some(name) = wanted.forget {
        check_foreign(name, (repository, &history), (&catalog, &own))?;
    }
    let last = catalog.readable().last();
    let mut work = Work {
        local,
        repository,
        progress,
        own: &own,
        beginning: history.beginning,
        earliest: last.map_or(0, |last| last.time.micros() + 1),
        existing: BTreeMap::new(),
        last_key: 0,
        copied_bytes: 0,
        num_copied_segments: 0,
        num_copied_files: 0,
        last_copied: None,
        notes: Vec::new(),
    };
    let manifest = work.run((store_id, &survey), wanted.now)?;
    let mut taken = Taken {
        manifest,
        copied_bytes: work.copied_bytes,
        num_copied_segments: work.num_copied_segments,
        num_copied_files: work.num_copied_files,
        removed: Vec::new(),
        foreign: Vec::new(),
        notes: work.notes,
    };
    let swept = sweep::sweep(repository, &history, catalog, &taken.manifest, wanted)?;
    taken.removed = swept.removed;
    taken.foreign = swept.foreign;
    taken.notes.extend(swept.notes);
    Ok(taken)
}

fn sizes(repository: &Repository) -> Result<BTreeMap<SegmentName, u64>, BackupError> {
    let objects = repository.list(SEGMENTS)?;
    let named = objects.iter();
    let named = named.filter_map(|it| Some((SegmentName::parse(&it.name)?, it.size)));
    Ok(named.collect())
}

/// Finds an object that a backup refers to and that is not there.
fn find_gone(repository: &Repository, manifest: &Manifest) -> Result<Option<String>, BackupError> {
    let objects = repository.objects()?.into_iter();
    let there: BTreeSet<String> = objects.map(|object| object.name).collect();
    let segments = manifest.segments.iter().filter_map(SegmentRef::name);
    let mut needed = sweep::contents(&[manifest]);
    needed.extend(segments.map(|name| name.object()));
    if manifest.missing_keys.is_some() {
        // These are the keys of an earlier backup, which may have lost them.
        needed.retain(|object| !object.starts_with(KEYS));
    }
    Ok(needed.into_iter().find(|object| !there.contains(object)))
}

/// Checks that a backup exists and may be forgotten. One with an unreadable manifest may, because
/// somebody has named it.
fn check_foreign(
    name: &str,
    (repository, history): (&Repository, &History<'_>),
    (catalog, own): (&Catalog, &[&Manifest]),
) -> Result<(), BackupError> {
    if history.beginning.is_none() {
        return Err(BackupError::Refused(format!(
            "{}: none can be removed",
            history::UNKNOWN
        )));
    }
    if !catalog.has(name) {
        let place = repository.place();
        return Err(BackupError::Refused(format!(
            "{place} has no backup {name}"
        )));
    }
    if own.iter().any(|it| it.name == name) {
        return Err(BackupError::Refused(format!(
            "backup {name} is one of this log's own history: --keep removes those"
        )));
    }
    Ok(())
}

struct Work<'a> {
    local: &'a Local,
    repository: &'a Repository,
    progress: &'a mut dyn FnMut(Progress),
    /// The earlier backups of this log's history, the oldest first.
    own: &'a [&'a Manifest],
    /// Where that history begins, if it is known.
    beginning: Option<Beginning>,
    /// Names of backups sort in the order in which they were taken, so this one is not before this
    /// time, whatever the clock does.
    earliest: i64,
    /// The segments in the repository, with their sizes.
    existing: BTreeMap<SegmentName, u64>,
    /// The highest key number that the log, as far as it was read, is sealed with.
    last_key: u64,
    copied_bytes: u64,
    num_copied_segments: usize,
    num_copied_files: usize,
    /// The file that was copied last, maybe only a piece of it.
    last_copied: Option<String>,
    notes: Vec<String>,
}

impl Work<'_> {
    /// Saves everything and stores the manifest, which completes the backup. Another log's backup
    /// may meanwhile have removed what this one found there. Then everything is saved again: the
    /// stored manifest keeps the rest from being removed, too.
    fn run(
        &mut self,
        (store_id, survey): (Uuid, &Survey),
        now: Timestamp,
    ) -> Result<Manifest, BackupError> {
        let mut tries = 0;
        loop {
            let manifest = self.save((store_id, survey), now)?;
            let object = manifest_object(&manifest.name);
            self.repository.put(&object, &mut &*manifest.encode()?)?;
            let Some(gone) = find_gone(self.repository, &manifest)? else {
                return Ok(manifest);
            };
            tries += 1;
            if tries == TRIES {
                self.repository.remove(&object)?;
                return Err(missing(&gone));
            }
        }
    }

    /// Saves what the repository does not have yet.
    fn save(
        &mut self,
        (store_id, survey): (Uuid, &Survey),
        now: Timestamp,
    ) -> Result<Manifest, BackupError> {
        self.existing = sizes(self.repository)?;
        self.notes.clear();
        let mut log = Log::default();
        self.save_log(survey, &mut log)?;
        let last = self.own.last().copied();
        let files = self.save_files(last)?;
        let looked = self.local.assets.as_ref().map(|folder| {
            let found = lookup::find_missing(folder, (survey, last), &files);
            found.map_err(|error| {
                // The log is saved all the same.
                let note = format!("the files were not compared with the log: {error}");
                self.notes.push(note);
            })
        });
        let looked = looked.and_then(Result::ok);
        let used = (store_id, self.last_key);
        let keys = keys::save(self.local, self.repository, self.own, used)?;
        if let Ok(Some(keys)) = &keys {
            self.copied(keys.size);
        }
        self.manifest((store_id, survey), log, (files, looked, keys), now)
    }

    fn manifest(
        &self,
        (store_id, survey): (Uuid, &Survey),
        log: Log,
        (files, looked, keys): (
            Vec<Arc<SavedFile>>,
            Option<Option<MissingFiles>>,
            keys::Saved,
        ),
        now: Timestamp,
    ) -> Result<Manifest, BackupError> {
        let end = log.segments.last();
        let (head, chain): (u64, ChainHash) =
            end.map_or((0, chain::GENESIS), |end| (end.last, end.chain));
        let last = survey
            .segments
            .iter()
            .find(|segment| !segment.is_empty() && segment.last_position == head);
        let cut = last.map(|segment| segment.find_cut(Until::End));
        let cut = cut.transpose().map_err(BackupError::io("the journal"))?;
        let key = LogKey::load(&self.local.data_dir);
        let key = key.map_err(BackupError::io(KEY_FILE))?;
        let time = Timestamp::from_micros(now.micros().max(self.earliest));
        // The newest backup of an earlier state: this log may end before damage.
        let follows = self.own.iter().rev().find(|backup| backup.head <= head);
        let (keys, missing_keys) = match keys {
            Ok(keys) => (keys, None),
            Err(error) => {
                let before = follows.and_then(|before| before.keys.clone());
                (before, Some(error.to_string()))
            }
        };
        Ok(Manifest {
            format: manifest::format_of(&files),
            name: name_of(time),
            time,
            clock: (time != now).then_some(now),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            store_id,
            follows: follows.map(|before| before.name.clone()),
            history: self.beginning,
            head,
            chain,
            head_time: cut.and_then(|cut| cut.time),
            checkpoint: key.map(|key| key.sign(store_id, (head, chain), time)),
            segments: log.segments,
            damaged_segments: log.damaged_segments,
            damage: log.damage,
            missing_ledger: match &self.local.ops_store {
                OpsStoreCopy::Failed(reason) => Some(reason.clone()),
                OpsStoreCopy::None | OpsStoreCopy::At(_) => None,
            },
            has_looked_for_files: looked.is_some(),
            missing_files: looked.flatten(),
            files_in_bucket: self.local.bucket.clone(),
            files,
            missing_keys,
            keys,
        })
    }

    fn copied(&mut self, bytes: u64) {
        self.copied_bytes += bytes;
        (self.progress)(Progress {
            bytes: self.copied_bytes,
        });
    }
}

/// Returns the name of a backup for a time, such as `20240611T093000.123456Z`.
fn name_of(time: Timestamp) -> String {
    let micros = time.micros().rem_euclid(1_000_000);
    let seconds = Timestamp::from_micros(time.micros() - micros).to_string();
    let digits: String = seconds
        .chars()
        .filter(|char| !matches!(char, '-' | ':' | 'Z'))
        .collect();
    format!("{digits}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_like_times() {
        let time = Timestamp::parse("2024-06-11T09:30:00Z").unwrap();
        assert_eq!(name_of(time), "20240611T093000.000000Z");
        let later = Timestamp::from_micros(time.micros() + 70_000);
        assert_eq!(name_of(later), "20240611T093000.070000Z");
    }
}
