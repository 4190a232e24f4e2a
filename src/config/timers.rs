//! Settings for scheduled tasks.

use std::time::Duration;

use chrono_tz::Tz;

use super::source::Reader;

/// Scheduled tasks: the timers of plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// The time zone of timers that do not name one. `TIMER_ZONE`, an IANA name, default the
    /// machine's.
    pub zone: Tz,
    /// The maximum age of a missed run that is caught up; zero means none, as in v1.
    /// `TIMER_CATCH_UP` in seconds, default 60.
    pub catch_up: Duration,
    /// Whether another server runs the tasks, hosts the hubs and sends the notices. `SLAVE`,
    /// default off.
    pub is_slave: bool,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Timers {
    let catch_up = reader.number("TIMER_CATCH_UP", 60, 0..=86_400);
    Timers {
        zone: read_zone(reader),
        catch_up: Duration::from_secs(catch_up),
        is_slave: reader.boolean("SLAVE", false),
    }
}

fn read_zone(reader: &mut Reader<'_>) -> Tz {
    let name = reader.text("TIMER_ZONE", "");
    let zone = if name.is_empty() {
        Some(local_zone(reader.optional("TZ")))
    } else {
        name.parse().ok()
    };
    let zone = zone.unwrap_or_else(|| {
        reader.refuse("TIMER_ZONE", &name, "a time zone, such as Europe/Berlin");
        Tz::UTC
    });
    reader.show(zone.name());
    zone
}

/// Returns the machine's time zone; UTC if it has no named one.
fn local_zone(variable: Option<String>) -> Tz {
    let variable = variable.and_then(|name| name.trim_start_matches(':').parse().ok());
    let machines = || iana_time_zone::get_timezone().ok()?.parse().ok();
    variable.or_else(machines).unwrap_or(Tz::UTC)
}
