//! All backups in a repository, as they were at one moment.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::BackupError;
use super::manifest::{Manifest, SavedFile, SegmentRef};
use super::object::SegmentName;
use super::repository::NamedManifest;

/// The backups, the oldest first; those whose manifests are damaged with the reason.
#[derive(Default)]
pub(super) struct Catalog {
    pub(super) backups: Vec<NamedManifest>,
    /// The files of all backups. Most backups have the same ones, so they share them.
    files: HashSet<Arc<SavedFile>>,
}

impl Catalog {
    pub(super) fn add(&mut self, name: String, mut manifest: Result<Manifest, BackupError>) {
        for file in manifest.iter_mut().flat_map(|it| &mut it.files) {
            match self.files.get(file) {
                Some(same) => *file = Arc::clone(same),
                None => {
                    self.files.insert(Arc::clone(file));
                }
            }
        }
        let place = self.backups.partition_point(|(before, _)| *before < name);
        self.backups.insert(place, (name, manifest));
    }

    /// Keeps only the backups with some names.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.backups.retain(|(name, _)| is_kept(name));
    }

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A backup of a history that begins at a position, unless an earlier build made it, with its
    /// one segment.
    fn backup(
        name: &str,
        follows: Option<&str>,
        (history, last): (Option<u64>, u64),
    ) -> NamedManifest {
        let chain = crate::hex::encode(&[1; 32]);
        let history = history.map(|position| json!({"position": position, "chain": chain}));
        let digest = history.as_ref().map(|_| name);
        let segment = json!({"first": 1, "last": last, "chain": chain, "digest": digest});
        let manifest = json!({
            "format": 1, "name": name, "time": "2024-06-11T09:30:00Z", "program": "",
            "follows": follows, "store_id": uuid::Uuid::nil(), "history": history, "head": last, "chain": chain,
            "head_time": null, "segments": [segment], "files": [],
        });
        let manifest = serde_json::from_value(manifest).unwrap();
        (name.to_owned(), Ok(manifest))
    }

    fn catalog(backups: Vec<NamedManifest>) -> Catalog {
        let mut catalog = Catalog::default();
        for (name, manifest) in backups {
            catalog.add(name, manifest);
        }
        catalog
    }

    fn found<'a>(catalog: &'a Catalog, name: &str) -> &'a Manifest {
        catalog.readable().find(|it| it.name == name).unwrap()
    }

    #[test]
    fn a_backup_is_continued_by_later_ones_of_its_history_alone() {
        let catalog = catalog(vec![
            backup("1", None, (None, 10)),
            backup("2", Some("1"), (None, 20)),
            backup("3", None, (Some(21), 30)),
            backup("4", Some("2"), (Some(0), 40)),
            backup("5", Some("gone"), (Some(21), 50)),
        ]);
        let line = |name: &str| {
            let line = catalog.line(found(&catalog, name)).into_iter();
            line.map(|it| it.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(line("1"), ["1", "2", "4"]);
        assert_eq!(line("2"), ["2", "4"]);
        assert_eq!(line("3"), ["3", "5"]);
        assert_eq!(line("4"), ["4"]);
    }

    #[test]
    fn backups_share_the_files_that_are_the_same() {
        let with_file = |name: &str, path: &str| {
            let (name, mut manifest) = backup(name, None, (None, 10));
            let file = json!({"path": path, "size": 4, "blake3": "ab"});
            let file = serde_json::from_value(file).unwrap();
            manifest.as_mut().unwrap().files.push(Arc::new(file));
            (name, manifest)
        };
        let backups =
            [("1", "a"), ("2", "a"), ("3", "b")].map(|(name, path)| with_file(name, path));
        let catalog = catalog(backups.into());
        let file = |name: &str| Arc::clone(&found(&catalog, name).files[0]);
        assert!(Arc::ptr_eq(&file("1"), &file("2")));
        assert_eq!((&*file("2").path, &*file("3").path), ("a", "b"));
    }

    #[test]
    fn a_segment_is_needed_as_the_newest_of_its_history_name_it() {
        let catalog = catalog(vec![
            backup("1", None, (Some(0), 10)),
            backup("2", None, (Some(5), 15)),
            backup("3", Some("1"), (Some(0), 20)),
            backup("4", None, (None, 12)),
        ]);
        let object = |name: &str| found(&catalog, name).segments[0].name().unwrap();
        let first = found(&catalog, "1");
        let of_first = holders(&catalog.line(first), &first.segments[0]);
        assert_eq!(of_first, [object("3"), object("1")]);
        let there = BTreeSet::from([object("2"), object("3")]);
        let needed = catalog.needed(&[first], &there);
        assert!(needed.contains(&object("3")) && !needed.contains(&object("2")));
        // It is not known which one a backup of an earlier build needs.
        let needed = catalog.needed(&[found(&catalog, "4")], &there);
        assert_eq!(needed, there);
    }
}
