//! The cleanup after a backup: removes older backups, and objects that nothing refers to.

use std::collections::BTreeSet;

use skytrail_actors::log::journal::archive::Survey;
use skytrail_schema::time::Timestamp;

use super::catalog::Catalog;
use super::folder::PART;
use super::history::History;
use super::manifest::{ErasedFiles, Manifest};
use super::object::{BACKUPS, DAMAGED, FILES, KEYS, SEGMENTS, SegmentName, content};
use super::repository::{Object, Repository, manifest_object};
use super::{BackupError, Wanted, keys};

/// An object that nothing refers to may belong to a backup that is being taken elsewhere, for this
/// long.
const GRACE_MICROS: i64 = 24 * 3600 * 1_000_000;

/// The result of a sweep.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) removed: Vec<String>,
    pub(super) foreign: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Removes old backups of this history except the newest `keep`, and the forgotten ones of others,
/// then what no backup needs.
pub(super) fn sweep(
    repository: &Repository,
    (survey, history): (&Survey, &History<'_>),
    (made, used): (&Manifest, &[SegmentName]),
    wanted: &Wanted<'_>,
) -> Result<Swept, BackupError> {
    let keep = wanted.keep;
    let catalog = repository.catalog()?;
    let backups: Vec<&Manifest> = catalog.readable().collect();
    let mut swept = Swept::default();
    let mut own: Vec<&str> = history
        .own(&catalog)?
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    // A log that is damaged now may not contain the end of its own backup.
    own.push(&made.name);
    // These are followed by at least `keep` backups that have everything they have; a backup with
    // something missing replaces none. No backup after one that stays is removed, because the next
    // one follows it.
    let is_own = |backup: &&Manifest| own.contains(&backup.name.as_str());
    let is_over = |earlier: &&Manifest| {
        let later = backups.iter().copied().filter(is_own);
        let later = later.filter(|later| later.name > earlier.name);
        keep > 0 && later.filter(|later| later.may_replace(earlier)).count() >= keep
    };
    let over = backups.iter().copied().filter(is_own).take_while(is_over);
    swept.removed = over.map(|backup| backup.name.clone()).collect();
    let newest = swept.removed.last().cloned();
    // A damaged backup that one of these follows belongs to this history, and is as old.
    let is_followed = |name: &str| {
        let mut follows = backups.iter().copied().filter(is_own);
        newest.as_deref().is_some_and(|newest| name < newest)
            && follows.any(|it| it.follows.as_deref() == Some(name))
    };
    // If the log is damaged, other histories may have what this backup lacks.
    let forget = wanted.forget.filter(|_| made.damage.is_empty());
    let is_gone = |(name, _): &(&str, &BackupError)| is_followed(name) || forget == Some(*name);
    let (gone, damaged): (Vec<_>, Vec<_>) = catalog.damaged().partition(is_gone);
    for (name, _) in gone {
        repository.remove(&manifest_object(name))?;
        swept.removed.push(name.to_owned());
    }
    swept.removed.extend(forgotten(&catalog, forget, &own));
    swept.removed.sort();
    for (_, error) in &damaged {
        swept.notes.push(format!(
            "{error}; while it exists, data that no backup needs is not removed"
        ));
    }
    let (gone, remaining): (Vec<&Manifest>, Vec<&Manifest>) = backups
        .iter()
        .copied()
        .partition(|backup| swept.removed.contains(&backup.name));
    for backup in &gone {
        repository.remove(&manifest_object(&backup.name))?;
    }
    let own: Vec<&Manifest> = backups.iter().copied().filter(is_own).collect();
    let foreign = remaining.iter().copied().filter(|it| !is_own(it));
    let foreign: Vec<&Manifest> = foreign.collect();
    swept.foreign = foreign.iter().map(|it| it.name.clone()).collect();
    let there = repository.segments()?.into_iter().collect();
    let of_others = catalog.needed(&foreign, &there);
    let free: Vec<&SegmentName> = there.difference(&of_others).collect();
    remove_replaced(repository, survey, used, &free)?;
    keys::remove_earlier(repository, made, &own, &foreign)?;
    remove_erased(repository, made, &own, &foreign)?;
    let garbage = Garbage {
        repository,
        catalog: &catalog,
        gone: &gone,
        remaining: &remaining,
        now: wanted.now,
    };
    // What an unreadable backup refers to is unknown.
    if damaged.is_empty() {
        garbage.remove()?;
    }
    Ok(swept)
}

/// Returns the names of a backup of another history and of those before it.
fn forgotten(catalog: &Catalog, last: Option<&str>, own: &[&str]) -> Vec<String> {
    let is_before = |backup: &&Manifest| {
        let line = catalog.line(backup);
        line.iter().any(|it| Some(it.name.as_str()) == last)
    };
    let others = catalog.readable();
    let others = others.filter(|backup| !own.contains(&backup.name.as_str()));
    let names = others.filter(is_before).map(|backup| backup.name.clone());
    names.collect()
}

/// Removes segments that a newer one replaces, because it reaches further or events were erased in
/// it. Earlier backups find what they need in the newer one; those of other histories do not.
fn remove_replaced(
    repository: &Repository,
    survey: &Survey,
    used: &[SegmentName],
    there: &[&SegmentName],
) -> Result<(), BackupError> {
    for newest in used {
        let is_older = |name: &&&SegmentName| {
            name.first == newest.first && name.last <= newest.last && **name != newest
        };
        for name in there.iter().filter(is_older) {
            if is_of(name, survey)? {
                repository.remove(&name.object())?;
            }
        }
    }
    Ok(())
}

/// Removes files that were erased after an earlier backup, unless another file has the same bytes.
/// The earlier backups then lack them.
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
    let (gone, remaining): (Vec<_>, Vec<_>) = files.partition(|file| erased.contains(file));
    let remaining = remaining.into_iter().map(|file| content(&file.blake3));
    let needed: BTreeSet<String> = contents(foreign).into_iter().chain(remaining).collect();
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

/// Returns whether a segment in the repository belongs to this log's history.
fn is_of(name: &SegmentName, survey: &Survey) -> Result<bool, BackupError> {
    let chain = survey.chain_at(name.last);
    let chain = chain.map_err(BackupError::io("the journal"))?;
    Ok(chain.is_some_and(|chain| name.ends_with(name.last, &chain)))
}

/// Objects that no backup refers to after some backups are gone.
struct Garbage<'a> {
    repository: &'a Repository,
    catalog: &'a Catalog,
    gone: &'a [&'a Manifest],
    remaining: &'a [&'a Manifest],
    now: Timestamp,
}

impl Garbage<'_> {
    fn remove(&self) -> Result<(), BackupError> {
        let (gone, remaining) = (contents(self.gone), contents(self.remaining));
        for prefix in [FILES, DAMAGED, KEYS] {
            for object in self.repository.list(prefix)? {
                let is_needed = remaining.contains(&object.name);
                if !is_needed && (gone.contains(&object.name) || self.is_old(&object)) {
                    self.repository.remove(&object.name)?;
                }
            }
        }
        let there = self.repository.segments()?.into_iter().collect();
        let needed = self.catalog.needed(self.remaining, &there);
        for object in self.repository.list(SEGMENTS)? {
            let Some(name) = SegmentName::parse(&object.name) else {
                continue;
            };
            let is_needed = needed.contains(&name);
            let mut gone = self.gone.iter().flat_map(|backup| &backup.segments);
            if !is_needed && (gone.any(|it| it.has_named(&name)) || self.is_old(&object)) {
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

/// Returns the objects that backups refer to, except segments.
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
