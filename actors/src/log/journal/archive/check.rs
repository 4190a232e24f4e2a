//! Reading a whole segment, to find out what is as it was written.

use skytrail_schema::chain::ChainHash;
use skytrail_schema::codec::{self, CodecError};

use super::{Damage, SegmentError, SegmentFile, read};
use crate::log::journal::frame::{self, Frame};
use crate::log::journal::segment;

/// The result of checking a segment.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// The digest of its bytes, up to the end of its frames.
    pub digest: [u8; 32],
    /// Events whose payloads are erased.
    pub num_erased: u64,
    /// Events that are sealed with their subject's key.
    pub num_sealed: u64,
    /// The highest number of a key that an event is sealed with; 0 when there is none.
    pub last_key: u64,
    /// What is wrong; empty when the segment is whole.
    pub damage: Vec<Damage>,
}

impl SegmentFile {
    /// Reads the whole segment: frames, positions, the chain, the seal.
    ///
    /// # Errors
    /// The device failed, or a newer program wrote some of it. Damage is not an error.
    pub fn check(&self) -> Result<Checked, SegmentError> {
        let mut checked = Checked {
            digest: segment::digest(&*self.file, self.end)?,
            ..Checked::default()
        };
        let mut pass = Pass {
            position: self.first_position.saturating_sub(1),
            chain: Some(self.previous_chain),
        };
        let mut offset = segment::HEADER_BYTES as u64;
        while offset < self.end {
            let mut frames = self.frames(offset..self.end);
            while let Some((at, frame)) = frames.next()? {
                let wrong = pass.take(frame, &mut checked);
                let wrong = wrong.map_err(|reason| self.newer(at, reason))?;
                let found =
                    wrong.map(|(first, last, reason)| self.damage(at, first, Some(last), &reason));
                checked.damage.extend(found);
            }
            let stopped = frames.offset();
            if stopped >= self.end {
                break;
            }
            let rest = read(&*self.file, stopped, self.end)?;
            self.refuse_newer(stopped, &rest)?;
            let (next, ahead) = self.next_whole(&rest, pass.position);
            let lost = next.or(self.digest.map(|_| self.last_position + 1));
            let (first, last) = (pass.position + 1, lost.map(|next| next - 1));
            let reason = "frame is damaged";
            checked
                .damage
                .push(self.damage(stopped, first, last, reason));
            pass = Pass {
                position: next.map_or(pass.position, |next| next - 1),
                chain: None,
            };
            offset = stopped + ahead;
        }
        if let Some(offset) = self.bad_offset {
            let reason = "frame is damaged";
            let first = self.last_position + 1;
            checked
                .damage
                .push(self.damage(offset, first, None, reason));
        }
        let is_sealed_wrong = self.digest.is_some_and(|digest| digest != checked.digest);
        if is_sealed_wrong && checked.damage.is_empty() {
            let (first, last) = (self.first_position, self.first_position.saturating_sub(1));
            let damage = self.damage(self.end, first, Some(last), "its seal does not match");
            checked.damage.push(damage);
        }
        Ok(checked)
    }

    /// Finds the next frame after a bad one: its position, and how far ahead it is.
    fn next_whole(&self, rest: &[u8], position: u64) -> (Option<u64>, u64) {
        let found = (1..rest.len()).find_map(|ahead| {
            let frame = frame::read(rest.get(ahead..)?)?;
            let first = frame.peek.first_position;
            let is_later = first > position && first <= self.last_position.max(position + 1);
            is_later.then_some((first, ahead as u64))
        });
        found.map_or((None, rest.len() as u64), |(first, ahead)| {
            (Some(first), ahead)
        })
    }
}

/// The state of a check between frames.
struct Pass {
    position: u64,
    /// `None` after a gap: then there is nothing to check the next commit's own hash against.
    chain: Option<ChainHash>,
}

impl Pass {
    /// Compares a frame with what came before; returns which positions are lost, and why.
    ///
    /// # Errors
    /// A newer program wrote it.
    fn take(
        &mut self,
        frame: Frame<'_>,
        checked: &mut Checked,
    ) -> Result<Option<(u64, u64, String)>, CodecError> {
        let (first, last) = (frame.peek.first_position, frame.peek.last_position());
        if first <= self.position {
            return Ok(Some((
                first,
                last,
                "it repeats earlier positions".to_owned(),
            )));
        }
        let expected = self.position + 1;
        if first > expected {
            self.chain = None;
        }
        let found = codec::check_commit(frame.commit, self.chain.as_ref());
        self.position = last;
        self.chain = Some(frame.peek.chain);
        Ok(match found {
            Ok(contents) => {
                checked.num_erased += contents.num_erased;
                checked.num_sealed += contents.num_sealed;
                if contents.num_sealed > 0 {
                    let sealed = codec::sealed_events(frame.commit).unwrap_or_default();
                    let keys = sealed.into_iter().map(|event| event.key);
                    checked.last_key = keys.fold(checked.last_key, u64::max);
                }
                (first > expected)
                    .then(|| (expected, first - 1, "positions are missing".to_owned()))
            }
            Err(error) if error.is_newer() => return Err(error),
            Err(error) => Some((expected, last, error.to_string())),
        })
    }
}
