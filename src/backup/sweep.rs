//! What goes after a backup: older backups, and what nobody refers to.

use std::collections::BTreeSet;

use skytrail_actors::log::journal::archive::Survey;
use skytrail_schema::time::Timestamp;

use super::folder::PART;
use super::manifest::{ErasedFiles, Manifest};
use super::object::{BACKUPS, DAMAGED, FILES, KEYS, SEGMENTS, SegmentName, content};
use super::repository::{Object, Repository, manifest_object};
use super::{BackupError, keys};

/// What nobody refers to may be part of a backup that is being made elsewhere, for so long.
const GRACE_MICROS: i64 = 24 * 3600 * 1_000_000;

/// What was done.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) removed: Vec<String>,
    pub(super) foreign: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Removes old backups of this history but for the newest `keep`, then what no backup needs.
pub(super) fn sweep(
    repository: &Repository,
    survey: &Survey,
    (made, used): (&Manifest, &[SegmentName]),
    keep: usize,
    now: Timestamp,
) -> Result<Swept, BackupError> {
    let (mut backups, mut damaged) = (Vec::new(), Vec::new());
    let mut swept = Swept::default();
    for name in repository.names()? {
        match repository.manifest(&name) {
            Ok(manifest) => backups.push(manifest),
            Err(error @ BackupError::Damaged { .. }) => damaged.push((name, error)),
            Err(error) => return Err(error),
        }
    }
    let mut own = Vec::new();
    for backup in &backups {
        if backup.name == made.name || is_own(backup, survey)? {
            own.push(backup.name.as_str());
        } else {
            swept.foreign.push(backup.name.clone());
        }
    }
    // Those that are followed by so many that have what they have: one in which something is missing
    // takes no other one's place. None goes that is behind one that stays: it is what the next follows.
    let is_own = |backup: &&Manifest| own.contains(&backup.name.as_str());
    let is_over = |earlier: &&Manifest| {
        let later = backups.iter().filter(is_own);
        let later = later.filter(|later| later.name > earlier.name);
        keep > 0 && later.filter(|later| later.may_replace(earlier)).count() >= keep
    };
    let over = backups.iter().filter(is_own).take_while(is_over);
    swept.removed = over.map(|backup| backup.name.clone()).collect();
    if let Some(newest) = swept.removed.iter().max().cloned() {
        // A damaged one that one of these follows was of this history, and is as old.
        let is_over = |name: &str| {
            let mut follows = backups.iter().filter(|it| own.contains(&it.name.as_str()));
            *name < *newest && follows.any(|it| it.follows.as_deref() == Some(name))
        };
        let (over, left) = damaged.into_iter().partition(|(name, _)| is_over(name));
        damaged = left;
        for (name, _) in over {
            repository.remove(&manifest_object(&name))?;
            swept.removed.push(name);
        }
        swept.removed.sort();
    }
    for (_, error) in &damaged {
        swept.notes.push(format!(
            "{error}; while it is there, what no backup needs is not removed"
        ));
    }
    let (gone, left): (Vec<&Manifest>, Vec<&Manifest>) = backups
        .iter()
        .partition(|backup| swept.removed.contains(&backup.name));
    for backup in &gone {
        repository.remove(&manifest_object(&backup.name))?;
    }
    remove_replaced(repository, survey, used)?;
    let is_foreign = |backup: &&Manifest| swept.foreign.contains(&backup.name);
    let (foreign, own): (Vec<&Manifest>, Vec<&Manifest>) = backups.iter().partition(is_foreign);
    keys::remove_earlier(repository, made, &own, &foreign)?;
    remove_erased(repository, made, &own, &foreign)?;
    let garbage = Garbage {
        repository,
        gone: &gone,
        left: &left,
        now,
    };
    // What a backup that is not readable refers to, nobody knows.
    if damaged.is_empty() {
        garbage.remove()?;
    }
    Ok(swept)
}

/// Whether a backup is of an earlier state of this log.
pub(super) fn is_own(backup: &Manifest, survey: &Survey) -> Result<bool, BackupError> {
    let chain = survey.chain_at(backup.head);
    let chain = chain.map_err(BackupError::io("the journal"))?;
    Ok(chain == Some(backup.chain))
}

/// Removes segments in whose place there is a newer one: it goes on further, or events were erased
/// in it. Earlier backups find what they need in the newer one.
fn remove_replaced(
    repository: &Repository,
    survey: &Survey,
    used: &[SegmentName],
) -> Result<(), BackupError> {
    let there = repository.segments()?;
    for newest in used {
        let is_older = |name: &&SegmentName| {
            name.first == newest.first && name.last <= newest.last && *name != newest
        };
        for name in there.iter().filter(is_older) {
            if is_of(name, survey)? {
                repository.remove(&name.object())?;
            }
        }
    }
    Ok(())
}

/// Removes files that were erased since an earlier backup, unless another file has the same bytes.
/// Earlier backups do without them.
fn remove_erased(
    repository: &Repository,
    made: &Manifest,
    own: &[&Manifest],
    foreign: &[&Manifest],
) -> Result<(), BackupError> {
    let mut erased = ErasedFiles::default();
    erased.learn(made);
    if erased.is_empty() {
        return Ok(());
    }
    let files = own.iter().chain([&made]).flat_map(|backup| &backup.files);
    let (gone, left): (Vec<_>, Vec<_>) = files.partition(|file| erased.contains(file));
    let left = left.into_iter().map(|file| content(&file.blake3));
    let needed: BTreeSet<String> = contents(foreign).into_iter().chain(left).collect();
    let there: BTreeSet<String> = repository
        .list(FILES)?
        .into_iter()
        .map(|object| object.name)
        .collect();
    let gone: BTreeSet<String> = gone.iter().map(|file| content(&file.blake3)).collect();
    for object in gone.difference(&needed).filter(|it| there.contains(*it)) {
        repository.remove(object)?;
    }
    Ok(())
}

/// Whether a segment in the repository is of this log's history.
fn is_of(name: &SegmentName, survey: &Survey) -> Result<bool, BackupError> {
    let chain = survey.chain_at(name.last);
    let chain = chain.map_err(BackupError::io("the journal"))?;
    Ok(chain.is_some_and(|chain| name.ends_with(name.last, &chain)))
}

/// What no backup refers to any more, after some are gone.
struct Garbage<'a> {
    repository: &'a Repository,
    gone: &'a [&'a Manifest],
    left: &'a [&'a Manifest],
    now: Timestamp,
}

impl Garbage<'_> {
    fn remove(&self) -> Result<(), BackupError> {
        let (gone, left) = (contents(self.gone), contents(self.left));
        for prefix in [FILES, DAMAGED, KEYS] {
            for object in self.repository.list(prefix)? {
                let is_needed = left.contains(&object.name);
                if !is_needed && (gone.contains(&object.name) || self.is_old(&object)) {
                    self.repository.remove(&object.name)?;
                }
            }
        }
        for object in self.repository.list(SEGMENTS)? {
            let Some(name) = SegmentName::parse(&object.name) else {
                continue;
            };
            let needs = |backup: &&Manifest| backup.segments.iter().any(|it| name.may_hold(it));
            let is_needed = self.left.iter().any(needs);
            if !is_needed && (self.gone.iter().any(needs) || self.is_old(&object)) {
                self.repository.remove(&object.name)?;
            }
        }
        for prefix in [FILES, DAMAGED, KEYS, SEGMENTS, BACKUPS] {
            for object in self.repository.list(prefix)? {
                if object.name.ends_with(PART) && self.is_old(&object) {
                    self.repository.remove(&object.name)?;
                }
            }
        }
        Ok(())
    }

    fn is_old(&self, object: &Object) -> bool {
        object.modified.micros() < self.now.micros() - GRACE_MICROS
    }
}

/// Returns the objects that backups refer to, but for segments.
fn contents(backups: &[&Manifest]) -> BTreeSet<String> {
    let files = backups.iter().flat_map(|backup| &backup.files);
    let damaged = backups.iter().flat_map(|backup| &backup.damaged_segments);
    let files = files.map(|file| content(&file.blake3));
    let keys = backups.iter().filter_map(|backup| backup.keys.as_ref());
    files
        .chain(keys.map(keys::object))
        .chain(damaged.map(|(_, object)| object.clone()))
        .collect()
}
