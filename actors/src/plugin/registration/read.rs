//! Parses a registration: list by list, point by point, collecting all problems.

use std::time::Duration;

use serde_json::{Map, Value as Json};
use skytrail_schema::id::TypeName;
use skytrail_schema::json;

use super::{
    CallPolicy, HandlerPoint, HookPoint, MAX_POINTS, OpPoint, PointAccess, ProviderPoint,
    Registration, TimerPoint, problem,
};
use crate::plugin::points::{CatchUp, Overlap, Trigger};
use crate::plugin::protocol::Problem;
use crate::plugin::settings::TransportKind;
use crate::plugin::timer_spec::TimerSpec;
use crate::task::Zone;

/// Paths that belong to the server. Handlers cannot have them or, if they end in `/`, anything
/// below them. The root itself belongs to the server, too.
const TAKEN_PATHS: [&str; 3] = ["/pubsub", "/_/", "/files/"];

impl Registration {
    /// Parses the answer to `init` of a plugin that is reached over `transport`.
    ///
    /// On the transports of v1, a flag that is not a boolean is not set, as in v1. Over the
    /// WebSocket it is a problem: `"user_required": 1` must not open a point to everybody.
    ///
    /// # Errors
    /// All problems of the registration.
    pub fn parse(answer: &Json, transport: TransportKind) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader {
            problems: Vec::new(),
            has_strict_flags: transport == TransportKind::WebSocket,
        };
        let nothing = Map::new();
        let lists = match answer {
            Json::Object(lists) => lists,
            // PHP writes an empty object like this.
            Json::Array(items) if items.is_empty() => &nothing,
            _ => return Err(vec![problem("init", "", "the answer should be an object")]),
        };
        let mut registration = Self::default();
        reader.each(lists, "op", |point| registration.add_op(point));
        reader.each(lists, "handler", |point| registration.add_handler(point));
        reader.each(lists, "hook", |point| registration.add_hook(point));
        reader.each(lists, "timer", |point| registration.add_timer(point));
        reader.each(lists, "provider", |point| registration.add_provider(point));
        reader.each(lists, "event", |_| {
            registration.num_events += 1;
            Ok(())
        });
        registration.put_in_order();
        if registration.num_points() > MAX_POINTS {
            let message = format!("more than {MAX_POINTS} points");
            reader.problems.push(problem("init", "", &message));
        }
        if reader.problems.is_empty() {
            Ok(registration)
        } else {
            Err(reader.problems)
        }
    }

    /// Sorts the lists whose order means nothing, so that it makes no difference between
    /// registrations.
    fn put_in_order(&mut self) {
        self.ops.sort_by(|one, other| one.name.cmp(&other.name));
        let key = |it: &HandlerPoint| (it.path.clone(), it.method.clone());
        self.handlers.sort_by_cached_key(key);
        self.timers.sort_by(|one, other| one.name.cmp(&other.name));
        self.providers.sort_by(|one, other| one.id.cmp(&other.id));
    }

    fn add_op(&mut self, point: &Map<String, Json>) -> Result<(), String> {
        let name = text(point, "name")?;
        self.ops.retain(|earlier| earlier.name != name);
        self.ops.push(OpPoint {
            name: name.to_owned(),
            access: access(point),
            call: policy(point)?,
        });
        Ok(())
    }

    fn add_handler(&mut self, point: &Map<String, Json>) -> Result<(), String> {
        let name = text(point, "name")?;
        let path = format!("/{}", name.replace(':', "/").trim_start_matches('/'));
        let mut taken = TAKEN_PATHS.iter().filter(|taken| is_below(&path, taken));
        if let Some(taken) = taken.next().or((path == "/").then_some(&"/")) {
            return Err(format!("the path {taken} belongs to the server"));
        }
        let methods = point.get("methods").and_then(Json::as_array);
        for method in methods.ok_or("methods should be a list")? {
            let method = method.as_str().ok_or("methods should be strings")?;
            let method = method.to_ascii_uppercase();
            self.handlers
                .retain(|earlier| earlier.path != path || earlier.method != method);
            self.handlers.push(HandlerPoint {
                name: name.to_owned(),
                path: path.clone(),
                method,
                access: access(point),
                call: policy(point)?,
            });
        }
        Ok(())
    }

    fn add_hook(&mut self, point: &Map<String, Json>) -> Result<(), String> {
        let trigger = match text(point, "trigger")? {
            "beforeSave" => Trigger::BeforeSave,
            "afterSave" => Trigger::AfterSave,
            "beforeDelete" => Trigger::BeforeDelete,
            "afterDelete" => Trigger::AfterDelete,
            other => {
                let triggers = "beforeSave, afterSave, beforeDelete or afterDelete";
                return Err(format!("trigger: {triggers}, not {other:?}"));
            }
        };
        self.hooks.push(HookPoint {
            name: text(point, "name")?.to_owned(),
            record_type: TypeName::new(text(point, "type")?),
            trigger,
            is_async: flag(point, "async"),
            catch_up: catch_up(point)?,
            call: policy(point)?,
        });
        Ok(())
    }

    fn add_timer(&mut self, point: &Map<String, Json>) -> Result<(), String> {
        let spec_text = text(point, "spec")?;
        let spec = TimerSpec::parse(spec_text).map_err(|error| error.to_string())?;
        let zone = optional_text(point, "time_zone")?;
        let zone = zone.map(|name| {
            Zone::named(name).ok_or_else(|| format!("time_zone: no time zone is named {name:?}"))
        });
        let overlap = match optional_text(point, "overlap")? {
            None | Some("skip") => Overlap::Skip,
            Some("allow") => Overlap::Allow,
            Some(other) => return Err(format!("overlap: skip or allow, not {other:?}")),
        };
        self.timers.push(TimerPoint {
            name: text(point, "name")?.to_owned(),
            spec,
            spec_text: spec_text.to_owned(),
            zone: zone.transpose()?,
            overlap,
            call: policy(point)?,
        });
        Ok(())
    }

    fn add_provider(&mut self, point: &Map<String, Json>) -> Result<(), String> {
        let id = text(point, "id")?;
        if id.contains(':') {
            // Accounts are named provider, colon, principal.
            return Err("an auth provider's id must not contain \":\"".to_owned());
        }
        self.providers.retain(|earlier| earlier.id != id);
        self.providers.push(ProviderPoint {
            id: id.to_owned(),
            call: policy(point)?,
        });
        Ok(())
    }
}

/// Walks the lists and collects problems.
struct Reader {
    problems: Vec<Problem>,
    has_strict_flags: bool,
}

impl Reader {
    fn each(
        &mut self,
        lists: &Map<String, Json>,
        list: &str,
        mut add: impl FnMut(&Map<String, Json>) -> Result<(), String>,
    ) {
        let points = match lists.get(list) {
            None | Some(Json::Null) => return,
            Some(Json::Array(points)) => points,
            Some(_) => {
                self.problems
                    .push(problem(list, "", "should be a list of objects"));
                return;
            }
        };
        for point in points {
            let added = match point.as_object() {
                Some(point) => self.check_flags(list, point).and_then(|()| add(point)),
                None => Err("should be an object".to_owned()),
            };
            if let Err(message) = added {
                let name = point.get("name").and_then(Json::as_str).unwrap_or_default();
                self.problems.push(problem(list, name, &message));
            }
        }
    }

    fn check_flags(&self, list: &str, point: &Map<String, Json>) -> Result<(), String> {
        let is_flag = |value: &Json| value.is_boolean() || value.is_null();
        let is_odd = |name: &&&str| point.get(**name).is_some_and(|value| !is_flag(value));
        match flags_of(list).iter().find(is_odd) {
            Some(name) if self.has_strict_flags => Err(format!("{name} should be true or false")),
            _ => Ok(()),
        }
    }
}

/// Returns the flags that the points of a list have.
fn flags_of(list: &str) -> &'static [&'static str] {
    match list {
        "op" | "handler" => &["key_required", "user_required", "idempotent"],
        "hook" => &["async", "idempotent"],
        "timer" | "provider" => &["idempotent"],
        _ => &[],
    }
}

fn is_below(path: &str, taken: &str) -> bool {
    if taken.ends_with('/') {
        path.starts_with(taken) || path == taken.trim_end_matches('/')
    } else {
        path == taken || path.strip_prefix(taken) == Some("/")
    }
}

fn text<'a>(point: &'a Map<String, Json>, name: &str) -> Result<&'a str, String> {
    match point.get(name).and_then(Json::as_str) {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(format!("{name} should be a string")),
    }
}

fn optional_text<'a>(point: &'a Map<String, Json>, name: &str) -> Result<Option<&'a str>, String> {
    match point.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name} should be a string")),
    }
}

fn flag(point: &Map<String, Json>, name: &str) -> bool {
    point.get(name).and_then(Json::as_bool).unwrap_or(false)
}

fn catch_up(point: &Map<String, Json>) -> Result<CatchUp, String> {
    match point.get("catch_up") {
        None | Some(Json::Null) => Ok(CatchUp::default()),
        Some(value) => match value.as_str() {
            Some("all") => Ok(CatchUp::All),
            Some("latest") => Ok(CatchUp::Latest),
            Some("none") => Ok(CatchUp::None),
            _ => Err("catch_up should be all, latest or none".to_owned()),
        },
    }
}

fn access(point: &Map<String, Json>) -> PointAccess {
    PointAccess {
        key_required: flag(point, "key_required"),
        user_required: flag(point, "user_required"),
    }
}

fn policy(point: &Map<String, Json>) -> Result<CallPolicy, String> {
    let timeout = match point.get("timeout_ms") {
        None | Some(Json::Null) => None,
        Some(value) => match json::whole_number(value) {
            Some(millis) if millis > 0 => Some(Duration::from_millis(millis)),
            _ => return Err("timeout_ms should be a whole number above 0".to_owned()),
        },
    };
    Ok(CallPolicy {
        timeout,
        is_idempotent: flag(point, "idempotent"),
    })
}
