//! What a plugin answers to `init`: its extension points.
//!
//! As in v1 every list may be missing, unknown members are ignored, and a flag that is not a
//! boolean is false. Unlike v1, which dies, a registration with anything wrong in it is refused
//! as a whole, with all its problems.

use std::collections::HashSet;
use std::time::Duration;

use chrono_tz::Tz;
use serde_json::{Map, Value as Json, json};
use skytrail_schema::id::TypeName;

use super::points::{CatchUp, Overlap, Trigger};
use super::protocol::Problem;
use super::timer_spec::TimerSpec;

/// The most points that one plugin may register.
pub const MAX_POINTS: usize = 10_000;

/// The most timers that all plugins together may have registered.
pub const MAX_TIMERS: usize = 1000;

/// Paths that belong to the server; no handler may take them or, where they end in `/`, anything
/// below. The root itself does, too.
const TAKEN_PATHS: [&str; 3] = ["/pubsub", "/_/", "/files/"];

/// The extension points of one plugin, in the order in which it listed them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Lambdas; names are unique.
    pub ops: Vec<OpPoint>,
    /// Handlers; pairs of path and method are unique.
    pub handlers: Vec<HandlerPoint>,
    /// Database hooks.
    pub hooks: Vec<HookPoint>,
    /// Timers.
    pub timers: Vec<TimerPoint>,
    /// Auth providers; ids are unique.
    pub providers: Vec<ProviderPoint>,
    /// How many events it listens to; every plugin is sent every event.
    pub num_events: usize,
}

/// How a point is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallPolicy {
    /// The point's own limit.
    pub timeout: Option<Duration>,
    /// Whether a request may go to another worker when the first was lost with it.
    pub is_idempotent: bool,
}

/// Who may call a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointAccess {
    /// A key or a token is needed.
    pub key_required: bool,
    /// A signed-in user is needed.
    pub user_required: bool,
}

/// A lambda.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpPoint {
    /// The action's name.
    pub name: String,
    /// Who may call it.
    pub access: PointAccess,
    /// How it is called.
    pub call: CallPolicy,
}

/// A handler of HTTP requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerPoint {
    /// The name as the plugin gave it.
    pub name: String,
    /// The path that follows from it.
    pub path: String,
    /// One method, in capitals.
    pub method: String,
    /// Who may call it.
    pub access: PointAccess,
    /// How it is called.
    pub call: CallPolicy,
}

/// A database hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookPoint {
    /// The function's name.
    pub name: String,
    /// The record type.
    pub record_type: TypeName,
    /// When it runs.
    pub trigger: Trigger,
    /// Nobody waits for its answer.
    pub is_async: bool,
    /// What it is told of what happened while the plugin was away.
    pub catch_up: CatchUp,
    /// How it is called.
    pub call: CallPolicy,
}

/// A timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerPoint {
    /// The function's name.
    pub name: String,
    /// When it runs.
    pub spec: TimerSpec,
    /// The spec as it was written.
    pub spec_text: String,
    /// The time zone, if it names one.
    pub zone: Option<Tz>,
    /// What happens when it is due while a run is under way.
    pub overlap: Overlap,
    /// How it is called.
    pub call: CallPolicy,
}

/// An auth provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderPoint {
    /// What clients name it by.
    pub id: String,
    /// How it is called.
    pub call: CallPolicy,
}

impl Registration {
    /// Reads `init`'s answer.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(answer: &Json) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::default();
        let Some(lists) = answer.as_object() else {
            return Err(vec![problem("init", "", "the answer should be an object")]);
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

    /// Returns how many points there are.
    pub fn num_points(&self) -> usize {
        self.ops.len()
            + self.handlers.len()
            + self.hooks.len()
            + self.timers.len()
            + self.providers.len()
    }

    /// Returns the number of points of each kind, as `registered` tells them.
    pub fn counts(&self) -> Json {
        json!({
            "op": self.ops.len(),
            "handler": self.handlers.len(),
            "hook": self.hooks.len(),
            "timer": self.timers.len(),
            "provider": self.providers.len(),
        })
    }

    /// Returns the handlers whose paths another plugin's registration has, too.
    pub fn clashes<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a HandlerPoint> {
        let is_theirs = |path: &str| other.handlers.iter().any(|theirs| theirs.path == path);
        self.handlers
            .iter()
            .filter(move |ours| is_theirs(&ours.path))
    }

    /// Whether there is a point of a kind with a name.
    pub fn has(&self, kind: &str, name: &str) -> bool {
        match kind {
            "op" => self.ops.iter().any(|point| point.name == name),
            "handler" => self.handlers.iter().any(|point| point.name == name),
            "hook" => self.hooks.iter().any(|point| point.name == name),
            "timer" => self.timers.iter().any(|point| point.name == name),
            "provider" => self.providers.iter().any(|point| point.id == name),
            _ => false,
        }
    }

    /// Returns the points whose requests may be sent again to another worker, as kind and name.
    pub fn idempotent_points(&self) -> HashSet<(&'static str, String)> {
        let ops = self
            .ops
            .iter()
            .map(|point| ("op", &point.name, &point.call));
        let handlers = self.handlers.iter();
        let handlers = handlers.map(|point| ("handler", &point.name, &point.call));
        let hooks = self.hooks.iter();
        let hooks = hooks.map(|point| ("hook", &point.name, &point.call));
        let providers = self.providers.iter();
        let providers = providers.map(|point| ("provider", &point.id, &point.call));
        ops.chain(handlers)
            .chain(hooks)
            .chain(providers)
            .filter(|(_, _, call)| call.is_idempotent)
            .map(|(kind, name, _)| (kind, name.clone()))
            .collect()
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

    /// Adds a hook; one with an unknown trigger is left out silently, as in v1.
    fn add_hook(&mut self, point: &Map<String, Json>) -> Result<(), String> {
        let trigger = match text(point, "trigger")? {
            "beforeSave" => Trigger::BeforeSave,
            "afterSave" => Trigger::AfterSave,
            "beforeDelete" => Trigger::BeforeDelete,
            "afterDelete" => Trigger::AfterDelete,
            _ => return Ok(()),
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
            name.parse::<Tz>()
                .map_err(|_| format!("time_zone: no time zone is named {name:?}"))
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
        self.providers.retain(|earlier| earlier.id != id);
        self.providers.push(ProviderPoint {
            id: id.to_owned(),
            call: policy(point)?,
        });
        Ok(())
    }
}

/// Walks the lists and gathers problems.
#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
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
                Some(point) => add(point),
                None => Err("should be an object".to_owned()),
            };
            if let Err(message) = added {
                let name = point.get("name").and_then(Json::as_str).unwrap_or_default();
                self.problems.push(problem(list, name, &message));
            }
        }
    }
}

/// Builds a problem.
pub fn problem(list: &str, name: &str, message: &str) -> Problem {
    Problem {
        list: list.to_owned(),
        name: name.to_owned(),
        message: message.to_owned(),
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
        Some(value) => match value.as_u64() {
            Some(millis) if millis > 0 => Some(Duration::from_millis(millis)),
            _ => return Err("timeout_ms should be a whole number above 0".to_owned()),
        },
    };
    Ok(CallPolicy {
        timeout,
        is_idempotent: flag(point, "idempotent"),
    })
}

#[cfg(test)]
mod tests;
