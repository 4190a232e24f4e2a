//! Reading a backup: its segments, each checked as it arrives, while other backups may be made.

use std::collections::BTreeSet;
use std::path::Path;

use skytrail_actors::log::KeyringCopy;
use skytrail_actors::log::disk::RealDisk;
use skytrail_actors::log::journal::archive::{
    Checked, Cut, LostRecords, OpenedKeys, SegmentFile, Until, file_name,
};
use skytrail_schema::chain::ChainHash;

use super::catalog::{Catalog, holders};
use super::folder::write;
use super::manifest::{ErasedFiles, Manifest, SavedFile, SegmentRef};
use super::object::{SegmentName, short};
use super::repository::{Repository, TRIES, missing};
use super::{BackupError, keys};

/// A backup, and what else the repository has, as it was at one moment.
pub(super) struct Source<'a> {
    pub(super) repository: &'a Repository,
    pub(super) manifest: &'a Manifest,
    catalog: Catalog,
    segments: Vec<SegmentName>,
    /// The files of the backup that were erased later.
    pub(super) erased: BTreeSet<String>,
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
    pub(super) fn read<T>(
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

    /// Finds the keys to restore with; see [`keys::find`].
    pub(super) fn find_keys(&self) -> Result<Option<SavedFile>, BackupError> {
        keys::find(self.repository, (self.manifest, &self.catalog))
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

/// A segment that was fetched and is intact.
pub(super) struct Fetched {
    pub(super) name: String,
    pub(super) segment: SegmentFile,
    /// The result of checking the whole segment.
    checked: Checked,
}

/// A backup that is being read, segment by segment.
pub(super) struct Reading<'a> {
    pub(super) source: Source<'a>,
    pub(super) folder: &'a Path,
    disk: &'a RealDisk,
    keys: KeyringCopy,
    /// The object that has them.
    keys_object: String,
    /// The keys that have opened something.
    opened: OpenedKeys,
    /// The number of events without their payloads in the fetched segments.
    pub(super) num_erased: u64,
    /// The number of events that are sealed with their subjects' keys.
    pub(super) num_sealed: u64,
    /// The highest key number that the wanted part of the log is sealed with.
    last_key: u64,
    /// The records that are unknown at the end of the fetched segments.
    pub(super) lost: LostRecords,
}

impl<'a> Reading<'a> {
    /// Begins to read a backup, whose segments are put in a folder.
    pub(super) fn begin(
        (repository, manifest): (&'a Repository, &'a Manifest),
        (folder, disk): Place<'a>,
    ) -> Result<Self, BackupError> {
        let mut source = Source::look(repository, manifest)?;
        let (keys, keys_object) = source.read(|source| {
            let saved = source.find_keys()?;
            let keys = keys::open(repository, manifest, saved.as_ref())?;
            Ok((keys, saved.as_ref().map(keys::object)))
        })?;
        Ok(Self {
            source,
            folder,
            disk,
            keys,
            keys_object: keys_object.unwrap_or_default(),
            opened: OpenedKeys::default(),
            num_erased: 0,
            num_sealed: 0,
            last_key: 0,
            lost: LostRecords::default(),
        })
    }

    /// Fetches a segment and checks all of it. `follows` is the chain hash before it.
    pub(super) fn fetch(
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

    /// Notes which keys a segment needs up to a cut, tries those that were not tried yet, and notes
    /// which records it has lost.
    pub(super) fn take(&mut self, fetched: &Fetched, cut: &Cut) -> Result<(), BackupError> {
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
        if checked.num_sealed > 0 {
            self.try_keys(segment, cut)?;
        }
        // No record can be lost in this segment, and none has been lost that could be found again.
        if checked.num_erased == 0 && self.lost.count() == 0 {
            return Ok(());
        }
        let read = self.lost.read(&fetched.segment, cut.end);
        read.map_err(BackupError::io(&fetched.name))
    }

    fn try_keys(&mut self, segment: &SegmentFile, cut: &Cut) -> Result<(), BackupError> {
        let opened = self.opened.read(segment, cut.end, &self.keys);
        let wrong = opened.map_err(BackupError::io(&segment.name))?;
        wrong.map_or(Ok(()), |(position, error)| {
            let object = &self.keys_object;
            Err(BackupError::Refused(format!(
                "the keys in {object} do not open event {position} of this log: {error}"
            )))
        })
    }

    /// Checks that there are as many keys as what was taken needs.
    pub(super) fn check_keys(&self) -> Result<(), BackupError> {
        keys::check(&self.keys, self.source.manifest, self.last_key)
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
