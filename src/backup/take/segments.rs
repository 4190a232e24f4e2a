//! Saves the segments of the log. What is damaged is taken from an earlier backup of the same
//! history, if one has it.

use std::collections::BTreeSet;
use std::fs::File;

use skytrail_actors::log::journal::archive::{Damage, SegmentFile, Survey, Until};

use super::Work;
use crate::backup::BackupError;
use crate::backup::local::OpenFile;
use crate::backup::manifest::SegmentRef;
use crate::backup::object::{DAMAGED, SegmentName};

/// The result of saving the log.
#[derive(Default)]
pub(super) struct Log {
    pub(super) segments: Vec<SegmentRef>,
    pub(super) damaged_segments: Vec<(u64, String)>,
    pub(super) damage: Vec<Damage>,
}

impl Work<'_> {
    pub(super) fn save_log(&mut self, survey: &Survey, log: &mut Log) -> Result<(), BackupError> {
        for segment in &survey.segments {
            if !segment.is_empty() {
                self.save_segment(segment, log)?;
            }
        }
        let names: BTreeSet<&str> = survey.damage.iter().map(|it| it.segment.as_str()).collect();
        for damage in &survey.damage {
            match self.kept_pieces(survey, damage) {
                Some(pieces) => {
                    self.notes.push(format!(
                        "{damage}: the backup took them from an earlier one"
                    ));
                    log.segments.extend(pieces);
                }
                None => log.damage.push(damage.clone()),
            }
        }
        for name in names {
            let is_readable = survey.segments.iter().any(|segment| segment.name == name);
            if !is_readable {
                let first = survey.damage.iter().find(|it| it.segment == name);
                let first = first.map_or(0, |it| it.first_position);
                let object = self.save_damaged(name)?;
                log.damaged_segments.push((first, object));
            }
        }
        log.segments.sort();
        log.damage.sort_by_key(|damage| damage.first_position);
        Ok(())
    }

    fn save_segment(&mut self, segment: &SegmentFile, log: &mut Log) -> Result<(), BackupError> {
        // A sealed segment that the repository already has need not be read.
        if let Some(digest) = &segment.digest {
            let name = SegmentName::of(segment, digest);
            if self.has(&name, segment) {
                log.segments.push(SegmentRef::of(segment, digest));
                return Ok(());
            }
        }
        let checked = segment
            .check()
            .map_err(BackupError::segment(segment.name.clone()))?;
        self.last_key = self.last_key.max(checked.last_key);
        let (within, behind): (Vec<Damage>, Vec<Damage>) = checked
            .damage
            .into_iter()
            .partition(|damage| damage.first_position <= segment.last_position);
        if !behind.is_empty() {
            let object = self.save_damaged(&segment.name)?;
            log.damaged_segments.push((segment.first_position, object));
            log.damage.extend(behind);
        }
        if within.is_empty() {
            self.copy_segment(segment, checked.digest)?;
            log.segments.push(SegmentRef::of(segment, &checked.digest));
            return Ok(());
        }
        if let Some(reference) = self.kept(segment) {
            let found = within.iter().map(|damage| {
                format!("{damage}: the backup took the undamaged segment from an earlier one")
            });
            self.notes.extend(found);
            log.segments.push(reference);
            return Ok(());
        }
        self.save_beginning(segment, &within, log)?;
        let object = self.save_damaged(&segment.name)?;
        log.damaged_segments.push((segment.first_position, object));
        log.damage.extend(within);
        Ok(())
    }

    /// Saves the intact beginning of a damaged segment.
    fn save_beginning(
        &mut self,
        segment: &SegmentFile,
        damage: &[Damage],
        log: &mut Log,
    ) -> Result<(), BackupError> {
        let first = damage.iter().map(|damage| damage.first_position).min();
        let until = Until::Position(first.unwrap_or_default().saturating_sub(1));
        let cut = segment.find_cut(until);
        let beginning = segment.cut_at(&cut.map_err(BackupError::io(segment.name.clone()))?);
        if beginning.is_empty() {
            return Ok(());
        }
        let checked = beginning.check();
        let digest = checked
            .map_err(BackupError::segment(segment.name.clone()))?
            .digest;
        log.segments.push(SegmentRef::of(&beginning, &digest));
        self.copy_segment(&beginning, digest)
    }

    /// Finds a segment that is damaged in this log and that an earlier backup of it has.
    fn kept(&self, segment: &SegmentFile) -> Option<SegmentRef> {
        let is_same = |it: &&SegmentRef| {
            (it.first, it.last, it.chain)
                == (segment.first_position, segment.last_position, segment.chain)
        };
        let segments = self.own.iter().rev().flat_map(|backup| &backup.segments);
        let kept = segments.filter(is_same).find(|it| {
            let mut existing = self.existing.keys();
            existing.any(|name| it.has_named(name))
        });
        kept.cloned()
    }

    /// Finds positions lost in this log that an earlier backup has.
    fn kept_pieces(&self, survey: &Survey, damage: &Damage) -> Option<Vec<SegmentRef>> {
        let (first, last) = (damage.first_position, damage.last_position?);
        let next = survey
            .segments
            .iter()
            .find(|segment| segment.first_position == last + 1)?;
        let within = |piece: &&SegmentRef| piece.first >= first && piece.last <= last;
        let pieces = self.own.last()?.segments.iter().filter(within);
        let pieces: Vec<SegmentRef> = pieces.cloned().collect();
        let is_dense = pieces
            .iter()
            .try_fold(first, |expected, piece| {
                (piece.first == expected).then_some(piece.last + 1)
            })
            .is_some_and(|end| end == last + 1);
        let ends_well = pieces
            .last()
            .is_some_and(|piece| piece.chain == next.previous_chain);
        let is_there = pieces.iter().all(|piece| {
            let mut existing = self.existing.keys();
            existing.any(|name| piece.has_named(name))
        });
        (is_dense && ends_well && is_there).then_some(pieces)
    }

    fn copy_segment(&mut self, segment: &SegmentFile, digest: [u8; 32]) -> Result<(), BackupError> {
        let name = SegmentName::of(segment, &digest);
        if self.has(&name, segment) {
            return Ok(());
        }
        let mut content = segment.sealed(digest);
        self.repository.put(&name.object(), &mut content)?;
        self.num_copied_segments += 1;
        self.copied(segment.sealed_bytes());
        Ok(())
    }

    /// Returns whether the repository has a segment. One of another size is damaged.
    fn has(&self, name: &SegmentName, segment: &SegmentFile) -> bool {
        self.existing.get(name) == Some(&segment.sealed_bytes())
    }

    /// Saves a damaged segment as it is; people have to judge what it is good for.
    fn save_damaged(&mut self, name: &str) -> Result<String, BackupError> {
        let place = self.local.journal().join(name);
        let failed = || BackupError::io(place.display().to_string());
        let digest = OpenFile::open(&place, None)
            .and_then(|mut file| file.digest())
            .map_err(failed())?;
        let object = format!("{DAMAGED}{}.journal", digest.to_hex());
        let mut content = File::open(&place).map_err(failed())?;
        self.repository.put(&object, &mut content)?;
        Ok(object)
    }
}
