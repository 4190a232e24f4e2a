//! Sets of log positions, stored as runs: erasures name many events, most of them adjacent.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of positions. Written as `3,7-12`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Positions {
    /// First and last position of each run: ascending, and never adjacent.
    runs: Vec<(u64, u64)>,
    len: u64,
}

impl Positions {
    /// Returns whether a position is in the set.
    pub fn contains(&self, position: u64) -> bool {
        let number = self.runs.partition_point(|(_, last)| *last < position);
        self.runs
            .get(number)
            .is_some_and(|(first, _)| *first <= position)
    }

    /// Returns whether any position from `first` to `last` is in the set.
    pub fn meets(&self, first: u64, last: u64) -> bool {
        let number = self.runs.partition_point(|(_, end)| *end < first);
        self.runs
            .get(number)
            .is_some_and(|(start, _)| *start <= last)
    }

    /// Returns how many positions there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns the first and last position of each run, ascending.
    pub fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    /// Iterates over the positions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// Returns the positions that are in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut runs = [self.runs.as_slice(), other.runs.as_slice()].concat();
        runs.sort_unstable();
        let mut all = Self::default();
        for (first, last) in runs {
            all.push_run(first, last);
        }
        all
    }

    /// Adds a run that does not begin before the last one does.
    fn push_run(&mut self, first: u64, last: u64) {
        match self.runs.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => {
                self.len += last.saturating_sub(*end);
                *end = last.max(*end);
            }
            _ => {
                self.len += last - first + 1;
                self.runs.push((first, last));
            }
        }
    }

    /// Parses what `Display` writes: ascending runs, and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut all = Self::default();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            let follows = |(_, end): &(u64, u64)| first > end.saturating_add(1);
            let fits = first > 0 && first <= last && last < u64::MAX;
            if !fits || !all.runs.last().is_none_or(follows) {
                return None;
            }
            all.push_run(first, last);
        }
        Some(all)
    }
}

impl FromIterator<u64> for Positions {
    fn from_iter<T: IntoIterator<Item = u64>>(positions: T) -> Self {
        let mut positions: Vec<u64> = positions.into_iter().collect();
        positions.sort_unstable();
        let mut all = Self::default();
        for position in positions {
            all.push_run(position, position);
        }
        all
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.runs.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            if first == last {
                write!(out, "{comma}{first}")?;
            } else {
                write!(out, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Positions {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Positions {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("positions are not ascending"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in(
            numbers in prop::collection::btree_set(1_u64..60, 0..30),
            more in prop::collection::btree_set(1_u64..60, 0..30),
            (from, length) in (1_u64..60, 0_u64..10),
        ) {
            let set: Positions = numbers.iter().copied().collect();
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), numbers.clone());
            prop_assert_eq!(set.len(), numbers.len() as u64);
            for position in 1..60 {
                prop_assert_eq!(set.contains(position), numbers.contains(&position));
            }
            let meets = numbers.range(from..=from + length).next().is_some();
            prop_assert_eq!(set.meets(from, from + length), meets);
            let both = set.union(&more.iter().copied().collect());
            prop_assert_eq!(both.len(), both.iter().count() as u64);
            prop_assert_eq!(both.iter().collect::<BTreeSet<_>>(), &numbers | &more);
            prop_assert_eq!(Positions::parse(&set.to_string()), Some(set));
        }
    }

    #[test]
    fn runs_are_written_short_and_read_strictly() {
        let set: Positions = [7, 3, 8, 9].into_iter().collect();
        assert_eq!(set.to_string(), "3,7-9");
        for text in [
            "0",
            "5,4",
            "3-2",
            "3,4",
            "1-",
            ",",
            "a",
            "18446744073709551615",
        ] {
            assert_eq!(Positions::parse(text), None, "{text}");
        }
        assert_eq!(Positions::parse(""), Some(Positions::default()));
    }
}
