//! The names of the objects in a repository.

use skytrail_actors::log::journal::archive::SegmentFile;
use skytrail_schema::chain::ChainHash;

use super::manifest::SegmentRef;
use crate::hex;

/// How many digits of a hash are in a name: enough to distinguish segments with the same first
/// position.
const DIGITS: usize = 16;

pub(super) const ABOUT: &str = "repository.json";
pub(super) const SEGMENTS: &str = "segments/";
pub(super) const FILES: &str = "files/";
pub(super) const DAMAGED: &str = "damaged/";
pub(super) const KEYS: &str = "keys/";
pub(super) const BACKUPS: &str = "backups/";

/// The parts of a segment's name in a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    pub(super) first: u64,
    pub(super) last: u64,
    /// The first digits of the chain hash at its end.
    pub(super) chain: String,
    /// The first digits of the digest of its bytes.
    pub(super) digest: String,
}

impl SegmentName {
    pub(super) fn of(segment: &SegmentFile, digest: &[u8; 32]) -> Self {
        Self {
            first: segment.first_position,
            last: segment.last_position,
            chain: short(&segment.chain),
            digest: short(digest),
        }
    }

    pub(super) fn parse(object: &str) -> Option<Self> {
        let name = object.strip_prefix(SEGMENTS)?.strip_suffix(".journal")?;
        let mut parts = name.split('-');
        let parsed = Self {
            first: parts.next()?.parse().ok()?,
            last: parts.next()?.parse().ok()?,
            chain: parts.next()?.to_owned(),
            digest: parts.next()?.to_owned(),
        };
        parts.next().is_none().then_some(parsed)
    }

    pub(super) fn object(&self) -> String {
        let Self {
            first,
            last,
            chain,
            digest,
        } = self;
        format!("{SEGMENTS}{first:020}-{last:020}-{chain}-{digest}.journal")
    }

    /// Returns whether the segment ends with a commit that has this chain hash.
    pub(super) fn ends_with(&self, position: u64, chain: &ChainHash) -> bool {
        self.last == position && self.chain == short(chain)
    }

    /// Returns whether the segment may hold what a manifest names. It does if the chain hash at its
    /// end is the same; if it reaches further, it has to be checked.
    pub(super) fn may_hold(&self, segment_ref: &SegmentRef) -> bool {
        self.first == segment_ref.first
            && (self.last > segment_ref.last
                || self.ends_with(segment_ref.last, &segment_ref.chain))
    }
}

impl SegmentRef {
    pub(super) fn of(segment: &SegmentFile, digest: &[u8; 32]) -> Self {
        Self {
            first: segment.first_position,
            last: segment.last_position,
            chain: segment.chain,
            digest: Some(short(digest)),
        }
    }

    /// Returns the name of the object that had this when the backup was taken, if it is known.
    pub(super) fn name(&self) -> Option<SegmentName> {
        let digest = self.digest.clone()?;
        Some(SegmentName {
            first: self.first,
            last: self.last,
            chain: short(&self.chain),
            digest,
        })
    }

    /// Returns whether a backup that is gone had this object.
    pub(super) fn has_named(&self, name: &SegmentName) -> bool {
        let is_same = self.first == name.first && name.ends_with(self.last, &self.chain);
        is_same && self.digest.as_ref().is_none_or(|it| *it == name.digest)
    }
}

/// Returns the name of the object with a file's content.
pub(super) fn content(digest: &str) -> String {
    format!("{FILES}{digest}")
}

pub(super) fn short(hash: &[u8; 32]) -> String {
    hex::encode(hash).chars().take(DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_were_written() {
        let name = SegmentName {
            first: 1,
            last: 4200,
            chain: short(&[7; 32]),
            digest: short(&[0xab; 32]),
        };
        assert_eq!(SegmentName::parse(&name.object()), Some(name.clone()));
        assert!(name.ends_with(4200, &[7; 32]) && !name.ends_with(4200, &[8; 32]));
        for other in ["segments/1-2-3.journal", "segments/1-2-3-4-5.journal", "x"] {
            assert_eq!(SegmentName::parse(other), None);
        }
    }
}
