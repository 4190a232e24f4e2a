//! Settings for scheduled tasks.

use std::time::Duration;

use skytrail_actors::task::Zone;

use super::source::Reader;

/// Scheduled tasks: the timers of plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timers {
    /// The time zone of timers that do not name one. `TIMER_ZONE`, an IANA name, default the
    /// machine's.
    pub zone: Zone,
    /// The variable `TZ`, if it decides about the zone but names none that is known.
    pub unread_zone: Option<String>,
    /// The maximum age of a missed run that is caught up; zero means none, as in v1.
    /// `TIMER_CATCH_UP` in seconds, default 60.
    pub catch_up: Duration,
    /// Whether another server runs the tasks, hosts the hubs and sends the notices. `SLAVE`,
    /// default off.
    pub is_slave: bool,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Timers {
    let catch_up = reader.number("TIMER_CATCH_UP", 60, 0..=86_400);
    let (zone, unread_zone) = read_zone(reader);
    Timers {
        zone,
        unread_zone,
        catch_up: Duration::from_secs(catch_up),
        is_slave: reader.boolean("SLAVE", false),
    }
}

/// Returns the time zone, and `TZ` if it could not be read.
fn read_zone(reader: &mut Reader<'_>) -> (Zone, Option<String>) {
    let name = reader.text("TIMER_ZONE", "");
    let (zone, unread) = if name.is_empty() {
        local_zone(reader.optional("TZ"))
    } else {
        let zone = Zone::named(&name).unwrap_or_else(|| {
            reader.refuse("TIMER_ZONE", &name, "a time zone, such as Europe/Berlin");
            Zone::UTC
        });
        (zone, None)
    };
    reader.show(zone.name());
    (zone, unread)
}

/// Returns the machine's time zone, UTC if it has no named one; and the variable if it does not
/// name a zone.
fn local_zone(variable: Option<String>) -> (Zone, Option<String>) {
    let named = variable.as_deref().map(named_by);
    if let Some(Some(zone)) = named {
        return (zone, None);
    }
    let machines = iana_time_zone::get_timezone();
    let machines = machines.ok().and_then(|name| Zone::named(&name));
    let is_machines = |value: &String| value.trim_start_matches(':') == MACHINES;
    let unread = variable.filter(|value| !is_machines(value));
    (machines.unwrap_or(Zone::UTC), unread)
}

/// The file that has the machine's time zone.
const MACHINES: &str = "/etc/localtime";

/// Where the rules of the zones are; a file's path there ends with the zone's name.
const ZONES: &str = "/usr/share/zoneinfo/";

/// Returns the zone that `TZ` names. A colon may come first, and the name may be that of a file.
fn named_by(variable: &str) -> Option<Zone> {
    let name = variable.trim_start_matches(':');
    Zone::named(name.strip_prefix(ZONES).unwrap_or(name))
}
