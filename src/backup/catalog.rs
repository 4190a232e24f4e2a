//! All backups in a repository, as they were at one moment.

use std::collections::BTreeSet;

use super::BackupError;
use super::manifest::{Manifest, SegmentRef};
use super::object::SegmentName;
use super::repository::NamedManifest;

/// The backups, the oldest first; those whose manifests are damaged with the reason.
pub(super) struct Catalog {
    pub(super) backups: Vec<NamedManifest>,
}

impl Catalog {
    /// Returns the backups with a readable manifest, the oldest first.
    pub(super) fn readable(&self) -> impl DoubleEndedIterator<Item = &Manifest> + Clone {
        let manifests = self.backups.iter();
        manifests.filter_map(|(_, manifest)| manifest.as_ref().ok())
    }

    /// Returns the names of the backups without one.
    pub(super) fn damaged(&self) -> impl Iterator<Item = (&str, &BackupError)> {
        let manifests = self.backups.iter();
        manifests.filter_map(|(name, manifest)| Some((name.as_str(), manifest.as_ref().err()?)))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.backups.iter().any(|(existing, _)| existing == name)
    }

    /// Returns a backup and those that were taken later of the same history, the oldest first.
    pub(super) fn line(&self, backup: &Manifest) -> Vec<&Manifest> {
        let mut names = BTreeSet::from([backup.name.as_str()]);
        let mut line = Vec::new();
        for other in self.readable().filter(|other| other.name >= backup.name) {
            // A backup follows none of another history, unless an earlier build took it.
            let follows = other.follows.as_deref();
            let is_next = follows.is_some_and(|before| names.contains(before));
            let is_same = other.history.is_some() && other.history == backup.history;
            if is_next || is_same || other.name == backup.name {
                names.insert(&other.name);
                line.push(other);
            }
        }
        line
    }

    /// Returns the segments that these backups need, of those that there are.
    pub(super) fn needed(
        &self,
        backups: &[&Manifest],
        there: &BTreeSet<SegmentName>,
    ) -> BTreeSet<SegmentName> {
        let mut needed = BTreeSet::new();
        for backup in backups {
            let line = self.line(backup);
            for segment in &backup.segments {
                let holders = holders(&line, segment);
                if holders.iter().any(|name| there.contains(name)) {
                    needed.extend(holders);
                } else {
                    let may_hold = there.iter().filter(|name| name.may_hold(segment));
                    needed.extend(may_hold.cloned());
                }
            }
        }
        needed
    }
}

/// Returns the objects that may hold a segment, the newest first, as a backup and those after it
/// name them. Those of earlier builds name none.
pub(super) fn holders(line: &[&Manifest], segment: &SegmentRef) -> Vec<SegmentName> {
    let mut holders = Vec::new();
    for backup in line.iter().rev() {
        let segments = &backup.segments;
        let found = segments.binary_search_by_key(&segment.first, |it| it.first);
        let found = found.ok().and_then(|number| segments.get(number));
        let found = found.filter(|it| it.last >= segment.last);
        let name = found.and_then(SegmentRef::name);
        holders.extend(name.filter(|name| !holders.contains(name)));
    }
    holders
}
