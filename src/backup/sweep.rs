//! The cleanup after a backup: removes older backups, and objects that nothing refers to.
//!
//! A backup of another log may be under way in the same place. It relies on what it found there and
//! on what it has put there, which no manifest names yet. Therefore:
//!
//! 1. Only objects that this log's own backups name are removed at once; any other that nothing
//!    refers to, after a day.
//! 2. The manifests are read last, immediately before anything is removed.
//! 3. A backup looks at its objects again when its manifest is stored (`take`), and replaces those
//!    that are gone.

use std::collections::{BTreeMap, BTreeSet};

use skytrail_schema::time::Timestamp;

use super::catalog::Catalog;
use super::folder::PART;
use super::history::{self, History};
use super::manifest::{ErasedFiles, Manifest, SegmentRef};
use super::object::{BACKUPS, SEGMENTS, SegmentName, content};
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
/// then what no backup needs. While the log is damaged, nothing is removed: the backups may be all
/// that is left of it.
pub(super) fn sweep(
    repository: &Repository,
    history: &History<'_>,
    mut catalog: Catalog,
    made: &Manifest,
    wanted: &Wanted<'_>,
) -> Result<Swept, BackupError> {
    let there = repository.objects()?;
    repository.refresh(&mut catalog)?;
    let mut swept = Swept::default();
    if history.beginning.is_none() {
        swept
            .notes
            .push(format!("{}: none was removed", history::UNKNOWN));
        return Ok(swept);
    }
    let mut own: BTreeSet<&str> = history
        .own(&catalog)?
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    // A log that is damaged now may not contain the end of its own backup.
    own.insert(&made.name);
    let is_own = |backup: &&Manifest| own.contains(backup.name.as_str());
    let (own, foreign): (Vec<&Manifest>, Vec<&Manifest>) = catalog.readable().partition(is_own);
    let is_whole = made.damage.is_empty();
    let removed = is_whole.then(|| find_removed(&catalog, (&own, &foreign), wanted));
    let removed = removed.unwrap_or_default();
    let is_gone = |name: &str| removed.contains(name);
    let foreign = foreign.into_iter().filter(|it| !is_gone(&it.name));
    let foreign: Vec<&Manifest> = foreign.collect();
    swept.foreign = foreign.iter().map(|it| it.name.clone()).collect();
    if !is_whole {
        let note = "nothing was removed, because the log is damaged";
        swept.notes.push(note.to_owned());
        return Ok(swept);
    }
    let names: BTreeSet<&str> = there.iter().map(|object| object.name.as_str()).collect();
    let remove = |objects: BTreeSet<String>| {
        let mut objects = objects.iter().filter(|it| names.contains(it.as_str()));
        objects.try_for_each(|object| repository.remove(object))
    };
    let stale = Stale {
        catalog: &catalog,
        there: &there,
        made,
        own: &own,
        foreign: &foreign,
    };
    remove(stale.replaced())?;
    remove(stale.earlier_keys())?;
    remove(stale.erased())?;
    for name in &removed {
        repository.remove(&manifest_object(name))?;
    }
    let damaged = catalog.damaged().filter(|(name, _)| !is_gone(name));
    swept.notes.extend(damaged.map(|(_, error)| {
        format!("{error}; while it exists, data that no backup needs is not removed")
    }));
    // What an unreadable backup refers to is unknown.
    if swept.notes.is_empty() {
        let (gone, remaining) = catalog.readable().partition(|it| is_gone(&it.name));
        let garbage = Garbage {
            catalog: &catalog,
            there: &there,
            gone,
            remaining,
            now: wanted.now,
        };
        remove(garbage.find())?;
    }
    swept.removed = removed.into_iter().map(str::to_owned).collect();
    Ok(swept)
}

/// Finds the backups to remove.
fn find_removed<'a>(
    catalog: &'a Catalog,
    (own, foreign): (&[&'a Manifest], &[&'a Manifest]),
    wanted: &Wanted<'_>,
) -> BTreeSet<&'a str> {
    // These are followed by at least `keep` backups that have everything they have; a backup with
    // something missing replaces none. No backup after one that stays is removed, because the next
    // one follows it.
    let is_over = |earlier: &&&Manifest| {
        let later = own.iter().filter(|later| later.name > earlier.name);
        wanted.keep > 0 && later.filter(|later| later.may_replace(earlier)).count() >= wanted.keep
    };
    let over = own.iter().take_while(is_over);
    let mut removed: BTreeSet<&str> = over.map(|backup| backup.name.as_str()).collect();
    let newest = removed.last().copied();
    // A damaged backup that one of these follows belongs to this history, and is as old.
    let is_followed = |name: &str| {
        newest.is_some_and(|newest| name < newest)
            && own.iter().any(|it| it.follows.as_deref() == Some(name))
    };
    let is_gone = |name: &&str| is_followed(name) || wanted.forget == Some(*name);
    let damaged = catalog.damaged().map(|(name, _)| name);
    removed.extend(damaged.filter(is_gone));
    // A backup of another history that is forgotten, and those before it.
    let is_before = |backup: &&&Manifest| {
        let line = catalog.line(backup);
        line.iter()
            .any(|it| Some(it.name.as_str()) == wanted.forget)
    };
    let forgotten = foreign.iter().filter(is_before);
    removed.extend(forgotten.map(|backup| backup.name.as_str()));
    removed
}

/// What this log's own backups name and do not need any more. Those of other histories may.
struct Stale<'a> {
    catalog: &'a Catalog,
    there: &'a [Object],
    /// The newest backup, which is among this log's own.
    made: &'a Manifest,
    own: &'a [&'a Manifest],
    foreign: &'a [&'a Manifest],
}

impl Stale<'_> {
    /// Finds segments that a newer one replaces, because it reaches further or events were erased
    /// in it. Earlier backups find what they need in the newer one.
    fn replaced(&self) -> BTreeSet<String> {
        let there = segments(self.there);
        let needed = self.catalog.needed(self.foreign, &there);
        let mut free: BTreeMap<u64, Vec<&SegmentName>> = BTreeMap::new();
        for name in there.difference(&needed) {
            free.entry(name.first).or_default().push(name);
        }
        let newest = self.made.segments.iter().map(|it| (it.first, it));
        let newest: BTreeMap<u64, &SegmentRef> = newest.collect();
        let mut replaced = BTreeSet::new();
        for earlier in self.own.iter().flat_map(|backup| &backup.segments) {
            let Some(newest) = newest.get(&earlier.first) else {
                continue;
            };
            let found = free.get(&earlier.first).into_iter().flatten();
            let found = found.filter(|name| earlier.has_named(name) && !newest.has_named(name));
            let found = found.filter(|_| earlier.last <= newest.last);
            replaced.extend(found.map(|name| name.object()));
        }
        replaced
    }

    fn earlier_keys(&self) -> BTreeSet<String> {
        let objects = |backups: &[&Manifest]| -> BTreeSet<String> {
            let keys = backups.iter().filter_map(|backup| backup.keys.as_ref());
            keys.map(keys::object).collect()
        };
        let mut kept = objects(self.foreign);
        kept.extend(self.made.keys.as_ref().map(keys::object));
        objects(self.own).difference(&kept).cloned().collect()
    }

    /// Finds files that were erased after an earlier backup, unless another file has the same
    /// bytes. The earlier backups then lack them.
    fn erased(&self) -> BTreeSet<String> {
        let mut erased = ErasedFiles::default();
        erased.learn(self.made);
        if erased.is_empty() {
            return BTreeSet::new();
        }
        let files = self.own.iter().flat_map(|backup| &backup.files);
        let (gone, remaining): (Vec<_>, Vec<_>) = files.partition(|file| erased.contains(file));
        let mut needed = contents(self.foreign);
        needed.extend(remaining.into_iter().map(|file| content(&file.blake3)));
        let gone = gone.into_iter().map(|file| content(&file.blake3));
        gone.filter(|object| !needed.contains(object)).collect()
    }
}

/// Objects that no backup refers to after some backups are gone.
struct Garbage<'a> {
    catalog: &'a Catalog,
    there: &'a [Object],
    gone: Vec<&'a Manifest>,
    remaining: Vec<&'a Manifest>,
    now: Timestamp,
}

impl Garbage<'_> {
    fn find(&self) -> BTreeSet<String> {
        let mut needed = contents(&self.remaining);
        let segments = segments(self.there);
        let segments = self.catalog.needed(&self.remaining, &segments);
        needed.extend(segments.iter().map(SegmentName::object));
        let gone = contents(&self.gone);
        let is_gone = |name: &str| {
            let segment = SegmentName::parse(name);
            let mut segments = self.gone.iter().flat_map(|backup| &backup.segments);
            let is_gone = |segment| segments.any(|it| it.has_named(&segment));
            gone.contains(name) || segment.is_some_and(is_gone)
        };
        let garbage = self.there.iter().filter(|object| {
            let name = object.name.as_str();
            if name.ends_with(PART) {
                return self.is_old(object);
            }
            // A name that this program does not write is not garbage.
            let is_other = name.starts_with(SEGMENTS) && SegmentName::parse(name).is_none();
            let is_needed = name.starts_with(BACKUPS) || is_other || needed.contains(name);
            !is_needed && (self.is_old(object) || is_gone(name))
        });
        garbage.map(|object| object.name.clone()).collect()
    }

    fn is_old(&self, object: &Object) -> bool {
        object.modified.micros() < self.now.micros() - GRACE_MICROS
    }
}

fn segments(there: &[Object]) -> BTreeSet<SegmentName> {
    let names = there.iter().map(|object| SegmentName::parse(&object.name));
    names.flatten().collect()
}

/// Returns the objects that backups refer to, except segments.
pub(super) fn contents(backups: &[&Manifest]) -> BTreeSet<String> {
    let files = backups.iter().flat_map(|backup| &backup.files);
    let damaged = backups.iter().flat_map(|backup| &backup.damaged_segments);
    let files = files.map(|file| content(&file.blake3));
    let keys = backups.iter().filter_map(|backup| backup.keys.as_ref());
    files
        .chain(keys.map(keys::object))
        .chain(damaged.map(|(_, object)| object.clone()))
        .collect()
}
