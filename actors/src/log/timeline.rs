//! Which history a position belongs to.
//!
//! A log that was put back to an earlier state continues with other events, at positions that were
//! in use before. So it has a **timeline**: a number that its data folder got when it was created,
//! and that no backup contains. A restored folder gets another one.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use super::folder::write_whole;

/// The file's name in the data folder.
const FILE: &str = "timeline";

/// A history of the log, written as eight hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timeline(u32);

impl Timeline {
    /// Returns the timeline of a data folder that this process has locked. A folder without one,
    /// because it is restored or of an earlier build, is given one.
    ///
    /// # Errors
    /// The file is not accessible, or is not a timeline.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => text.trim_end().parse().map_err(|InvalidTimeline| {
                let text = format!("{}: {InvalidTimeline}; remove it", path.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Self(rand::random());
                write_whole(&path, format!("{made}\n").as_bytes())?;
                Ok(made)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns a position together with this timeline, for a client to remember.
    pub fn at(self, position: u64) -> TimelinePosition {
        TimelinePosition {
            position,
            timeline: Some(self),
        }
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A string that is not a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a timeline, eight hexadecimal digits")]
pub struct InvalidTimeline;

impl FromStr for Timeline {
    type Err = InvalidTimeline;

    fn from_str(text: &str) -> Result<Self, InvalidTimeline> {
        let is_one = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(text, 16).ok().filter(|_| is_one);
        number.map(Self).ok_or(InvalidTimeline)
    }
}

/// A position as a client remembers it. Written as `17-1a2b3c4d`, or `17` by a client that knows no
/// timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelinePosition {
    /// The client has everything up to this position.
    pub position: u64,
    /// The timeline that the position belongs to.
    pub timeline: Option<Timeline>,
}

impl TimelinePosition {
    /// Returns whether this may be a position on a timeline; one that names no timeline is trusted.
    pub fn may_be_of(&self, timeline: Timeline) -> bool {
        self.timeline.is_none_or(|theirs| theirs == timeline)
    }
}

impl fmt::Display for TimelinePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timeline {
            Some(timeline) => write!(f, "{}-{timeline}", self.position),
            None => write!(f, "{}", self.position),
        }
    }
}

/// A string that is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a position, such as 17 or 17-1a2b3c4d")]
pub struct InvalidTimelinePosition;

impl FromStr for TimelinePosition {
    type Err = InvalidTimelinePosition;

    fn from_str(text: &str) -> Result<Self, InvalidTimelinePosition> {
        let (position, timeline) = match text.split_once('-') {
            Some((position, timeline)) => (position, Some(timeline)),
            None => (text, None),
        };
        let timeline = timeline.map(str::parse).transpose();
        Ok(Self {
            position: position.parse().map_err(|_| InvalidTimelinePosition)?,
            timeline: timeline.map_err(|InvalidTimeline| InvalidTimelinePosition)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_folder_keeps_its_timeline_and_another_has_another() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, other] = folders
            .each_ref()
            .map(|it| Timeline::of(it.path()).unwrap());
        assert_ne!(first, other);
        assert_eq!(Timeline::of(folders[0].path()).unwrap(), first);
        std::fs::write(folders[0].path().join(FILE), "+1a2b3c4").unwrap();
        let refused = Timeline::of(folders[0].path()).unwrap_err().to_string();
        assert!(refused.contains("timeline: expected"), "{refused}");
    }

    #[test]
    fn what_is_no_position_is_none() {
        let texts = [
            "",
            "-",
            "x",
            "-1",
            "1-",
            "17-1a2b3c4",
            "17-1a2b3c4d5",
            "17-+a2b3c4d",
        ];
        for text in texts {
            assert_eq!(
                text.parse::<TimelinePosition>(),
                Err(InvalidTimelinePosition),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn positions_are_read_as_they_were_written(position: u64, timeline: Option<u32>) {
            let position = TimelinePosition { position, timeline: timeline.map(Timeline) };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }
    }
}
