//! Checking everything: frames, positions, payload hashes, the chain, seals, and whether the chain
//! matches what was signed.

use std::collections::BTreeMap;

use skytrail_schema::chain::{ChainHash, GENESIS};
use skytrail_schema::codec::{self, SubjectKeys};
use skytrail_schema::event::EventBody;
use skytrail_schema::positions::Positions;

use super::blanks::Blanks;
use super::{OpenError, SegmentEntry, Segments, SignedEnd, frame, segment};
use crate::log::ReadError;

/// How many events are read at once.
const READ_EVENTS: usize = 4096;

/// The progress of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes checked.
    pub bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// The result of a verification that found nothing wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// Commits checked.
    pub num_commits: u64,
    /// Events checked.
    pub num_events: u64,
    /// Events among these whose payloads were erased; an erasure accounts for each.
    pub num_erased: u64,
    /// The last position at which the log says that it was restored from a backup.
    pub restored_at: Option<u64>,
    /// Signed positions checked.
    pub num_marks: u64,
    /// The last position.
    pub head: u64,
    /// The chain hash of the last commit.
    pub chain: ChainHash,
}

impl Segments {
    /// Checks the whole journal as it is now. `marks` are the chain hashes that it has to have at
    /// some positions.
    ///
    /// # Errors
    /// The first place that differs from what was written: segment, offset, and what is wrong.
    pub fn verify(
        &self,
        marks: &BTreeMap<u64, ChainHash>,
        mut progress: impl FnMut(VerifyProgress),
    ) -> Result<VerifyReport, ReadError> {
        let entries = self.list.read().clone();
        let total_bytes = entries.iter().map(|entry| entry.end).sum();
        let mut report = VerifyReport {
            chain: GENESIS,
            ..VerifyReport::default()
        };
        let mut bytes = 0;
        let mut blanks = Blanks::default();
        for (number, entry) in entries.iter().enumerate() {
            if entry.first_position != report.head + 1 {
                return Err(entry.broken(0, report.head + 1, "positions are missing before it"));
            }
            if report.chain != entry.previous_chain {
                return Err(entry.broken(0, report.head + 1, "chain does not follow"));
            }
            let pass = Pass {
                keys: &*self.keys,
                report: &mut report,
                blanks: &mut blanks,
                marks,
            };
            entry.verify(pass, |done| {
                progress(VerifyProgress {
                    bytes: bytes + done,
                    total_bytes,
                });
            })?;
            bytes += entry.end;
            if number + 1 < entries.len() {
                entry.verify_seal(&report)?;
            }
        }
        report.num_erased = blanks.account().map_err(|position| {
            let entry = entries
                .iter()
                .rfind(|entry| entry.first_position <= position);
            let reason = format!(
                "segment={}: a payload is missing, but no erasure names it",
                entry.map_or("-", |entry| entry.name.as_str())
            );
            ReadError::Damaged { position, reason }
        })?;
        if let Some((signed, _)) = marks.range(report.head + 1..).next() {
            let position = report.head + 1;
            let reason = format!(
                "the log ends at {}, but was signed at {signed}",
                report.head
            );
            return Err(ReadError::Damaged { position, reason });
        }
        Ok(report)
    }

    /// Checks that the chain matches what was signed. A place that cannot be read is left to its
    /// readers.
    pub(super) fn check_signed(&self, signed: &SignedEnd) -> Result<(), OpenError> {
        let Ok(found) = self.read_raw(signed.position, 1) else {
            return Ok(());
        };
        let Some(Ok(found)) = found.first().map(|(_, bytes)| codec::peek(bytes)) else {
            return Ok(());
        };
        if (found.last_position(), found.chain) == (signed.position, signed.chain) {
            return Ok(());
        }
        Err(OpenError::Contradicted(format!(
            "the chain hash at {} differs from the signed one",
            signed.position
        )))
    }

    /// Finds events whose payloads are gone although no erasure names them, in a log that was put
    /// back to before its erasures.
    ///
    /// # Errors
    /// The device failed, or the log is damaged.
    pub fn unnamed_blanks(&self) -> Result<Positions, ReadError> {
        let mut blanks = Blanks::default();
        let mut next = 1;
        while next <= self.head() {
            let commits = self.read(next, READ_EVENTS)?;
            let Some(last) = commits.last() else { break };
            next = last.last_position() + 1;
            commits.iter().for_each(|commit| blanks.look_at(commit));
        }
        Ok(blanks.unnamed())
    }
}

/// The state that a verification carries from frame to frame.
struct Pass<'a> {
    keys: &'a dyn SubjectKeys,
    report: &'a mut VerifyReport,
    blanks: &'a mut Blanks,
    marks: &'a BTreeMap<u64, ChainHash>,
}

impl SegmentEntry {
    fn verify(&self, mut pass: Pass<'_>, mut progress: impl FnMut(u64)) -> Result<(), ReadError> {
        pass.report.head = self.first_position - 1;
        let mut frames = self.frames_from(self.first_position);
        while frames.has_more() {
            let (offset, frame) = self.next(&mut frames, pass.report.head + 1)?;
            self.verify_frame(&mut pass, frame, offset)?;
            progress(frames.offset());
        }
        if pass.report.head == self.last_position {
            return Ok(());
        }
        Err(self.broken(
            self.end,
            pass.report.head + 1,
            "ends before its last position",
        ))
    }

    fn verify_frame(
        &self,
        pass: &mut Pass<'_>,
        frame: frame::Frame<'_>,
        offset: u64,
    ) -> Result<(), ReadError> {
        let position = pass.report.head + 1;
        if frame.peek.first_position != position {
            return Err(self.broken(offset, position, "positions are not consecutive"));
        }
        let commit = codec::verify_chain(frame.commit, &pass.report.chain, pass.keys)
            .map_err(|error| self.broken(offset, position, &error.to_string()))?;
        pass.blanks.look_at(&commit);
        let mut events = commit.events.iter();
        let restored = events.rfind(|event| matches!(event.body, EventBody::LogRestored(_)));
        let restored = restored.map(|event| event.position);
        pass.report.restored_at = restored.or(pass.report.restored_at);
        for (signed, chain) in pass.marks.range(position..=commit.last_position()) {
            if (*signed, *chain) != (commit.last_position(), commit.chain) {
                let reason = "the chain hash differs from the signed one";
                return Err(self.broken(offset, *signed, reason));
            }
            pass.report.num_marks += 1;
        }
        pass.report.chain = commit.chain;
        pass.report.head = commit.last_position();
        pass.report.num_commits += 1;
        pass.report.num_events += commit.events.len() as u64;
        Ok(())
    }

    fn verify_seal(&self, report: &VerifyReport) -> Result<(), ReadError> {
        let io = |error: std::io::Error| ReadError::Io(error.to_string());
        let footer = segment::read_footer(&*self.file).map_err(io)?;
        // A segment whose sealing was interrupted has no footer; its frames have been checked
        // above.
        let Some(footer) = footer else { return Ok(()) };
        let digest = segment::digest(&*self.file, self.end).map_err(io)?;
        let is_whole = footer.digest == digest
            && footer.last_position == report.head
            && footer.chain == report.chain;
        if is_whole {
            Ok(())
        } else {
            Err(self.broken(self.end, report.head, "seal does not match"))
        }
    }
}
