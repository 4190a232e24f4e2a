//! Where some commits of a segment begin, so that a search for one need not start at the first.
//!
//! None of it is on disk. The writer of a segment notes commits as it writes them. A reader of a
//! segment that was sealed before the start does so as it reads, from where an earlier reader
//! stopped, so each segment is walked once. A start knows nothing about a sealed segment but its
//! ends.
//!
//! There is about one entry for every `READ_BYTES`, which takes 16 bytes: 16 KiB for a segment of
//! 64 MiB that was walked to its end, 25 MiB for a log of 100 GiB.

use parking_lot::RwLock;

use super::{READ_BYTES, segment};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// First positions and offsets, ascending; no commit between two of them was due.
    noted: RwLock<Vec<(u64, u64)>>,
}

impl Index {
    /// Returns the offset of the last noted commit at or before `position`, or of the segment's first.
    pub(super) fn offset_before(&self, position: u64) -> u64 {
        let noted = self.noted.read();
        let number = noted.partition_point(|(first, _)| *first <= position);
        let before = number.checked_sub(1).and_then(|number| noted.get(number));
        before.map_or(segment::HEADER_BYTES as u64, |(_, offset)| *offset)
    }

    /// Notes a commit if one is due. A walk begins with a noted commit and skips none.
    pub(super) fn note(&self, position: u64, offset: u64) {
        let is_due = |noted: &[(u64, u64)]| {
            noted.last().is_none_or(|(last_position, last_offset)| {
                offset >= last_offset + READ_BYTES as u64 && position > *last_position
            })
        };
        if !is_due(&self.noted.read()) {
            return;
        }
        let mut noted = self.noted.write();
        if is_due(&noted) {
            noted.push((position, offset));
        }
    }

    /// Forgets all entries at or after an offset.
    pub(super) fn cut(&self, offset: u64) {
        self.noted.write().retain(|(_, at)| *at < offset);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However far walks go, and whatever is cut and written again: from the noted commit
        /// before any commit there is little more to read than one read takes.
        #[test]
        fn a_noted_commit_is_near_before_every_one(
            sizes in prop::collection::vec(100_u64..100_000, 1..60),
            walks in prop::collection::vec((0_usize..60, 0_usize..60), 1..8),
            kept in 0_usize..60,
        ) {
            let index = Index::default();
            let begins_of = |sizes: &[u64]| {
                let begins = sizes.iter().scan(segment::HEADER_BYTES as u64, |offset, size| {
                    let begin = *offset;
                    *offset += size;
                    Some(begin)
                });
                (1_u64..).zip(begins).collect::<Vec<_>>()
            };
            let walk = |begins: &[(u64, u64)], to: usize| {
                let (last, _) = begins[to.min(begins.len() - 1)];
                let from = index.offset_before(last);
                let on_the_way = begins.iter().filter(|(position, offset)| *offset >= from && *position <= last);
                for (position, offset) in on_the_way {
                    index.note(*position, *offset);
                }
            };
            let begins = begins_of(&sizes);
            walks.iter().for_each(|(to, _)| walk(&begins, *to));
            // After a cut other commits can have other places.
            let kept = kept.min(sizes.len());
            let end = sizes[..kept].iter().sum::<u64>() + segment::HEADER_BYTES as u64;
            index.cut(end);
            let others: Vec<u64> = sizes[kept..].iter().map(|size| size + 7).collect();
            let begins = begins_of(&[&sizes[..kept], &others].concat());
            walks.iter().for_each(|(_, to)| walk(&begins, *to));
            walk(&begins, begins.len());
            for (position, offset) in &begins {
                let from = index.offset_before(*position);
                prop_assert!(from <= *offset && begins.iter().any(|(_, begin)| *begin == from));
                prop_assert!(offset - from < READ_BYTES as u64 + 100_007);
            }
        }
    }
}
