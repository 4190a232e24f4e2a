//! Time zones, from the tz database that is built in.

use std::fmt;
use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone with an IANA name. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// Returns the zone with a name, such as `Europe/Berlin`, in upper or lower case.
    pub fn named(name: &str) -> Option<Self> {
        let zone = DATABASE.get(name).ok()?;
        (!zone.is_unknown()).then_some(Self(zone))
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// Returns how many seconds the zone's clocks are ahead of UTC at a second since 1970; `None` if
    /// that is thousands of years away.
    pub(super) fn offset(&self, second: i64) -> Option<i64> {
        let moment = Timestamp::from_second(second).ok()?;
        Some(self.0.to_offset(moment).seconds().into())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
