//! Which history a position belongs to.
//!
//! A log that was put back to an earlier state goes on with other events, at positions that were in use
//! before. So it has a **timeline**: a number that its folder was given when it was made, and that no
//! backup holds; a folder that was restored gets another.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use super::folder::write_whole;

/// The file's name in the data folder.
const FILE: &str = "timeline";

/// A history of the log. Written as eight hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timeline(u32);

impl Timeline {
    /// Returns the one of a data folder that this process has the lock of. One without, as those of
    /// earlier builds and restored ones, is given one.
    ///
    /// # Errors
    /// The file is not accessible, or is none.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => text.trim_end().parse().map_err(|NotOne| {
                let text = format!("{}: {NotOne}; remove it", path.display());
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

    /// Returns a position as somebody should remember it.
    pub fn at(self, position: u64) -> Place {
        Place {
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

/// A text that is no timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a timeline, eight hexadecimal digits")]
pub struct NotOne;

impl FromStr for Timeline {
    type Err = NotOne;

    fn from_str(text: &str) -> Result<Self, NotOne> {
        let is_one = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(text, 16).ok().filter(|_| is_one);
        number.map(Self).ok_or(NotOne)
    }
}

/// A position as somebody remembers it. Written as `17-1a2b3c4d`, or `17` by who knows no timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// He has had everything up to here.
    pub position: u64,
    /// Whose position it is.
    pub timeline: Option<Timeline>,
}

impl Place {
    /// Whether it may be one of a timeline: who says nothing of his is believed.
    pub fn may_be_of(&self, timeline: Timeline) -> bool {
        self.timeline.is_none_or(|theirs| theirs == timeline)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timeline {
            Some(timeline) => write!(f, "{}-{timeline}", self.position),
            None => write!(f, "{}", self.position),
        }
    }
}

/// A text that is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a position, such as 17 or 17-1a2b3c4d")]
pub struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (position, timeline) = match text.split_once('-') {
            Some((position, timeline)) => (position, Some(timeline)),
            None => (text, None),
        };
        let timeline = timeline.map(str::parse).transpose();
        Ok(Self {
            position: position.parse().map_err(|_| NoPlace)?,
            timeline: timeline.map_err(|NotOne| NoPlace)?,
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
    fn what_is_no_place_is_none() {
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
            assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text}");
        }
    }

    proptest! {
        #[test]
        fn places_are_read_as_they_were_written(position: u64, timeline: Option<u32>) {
            let place = Place { position, timeline: timeline.map(Timeline) };
            prop_assert_eq!(place.to_string().parse(), Ok(place));
        }
    }
}
