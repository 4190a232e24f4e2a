//! The answer of a plugin to `init`: its extension points.
//!
//! As in v1, every list can be missing, unknown members are ignored, and a flag that is not a
//! boolean is false. v1 dies of an invalid registration; here it is refused as a whole, with all
//! its problems.

mod read;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use serde_json::{Value as Json, json};
use skytrail_schema::id::TypeName;

use super::points::{CatchUp, Overlap, Trigger};
use super::protocol::Problem;
use super::timer_spec::TimerSpec;
use crate::task::Zone;

/// The maximum number of points that one plugin can register.
pub const MAX_POINTS: usize = 10_000;

/// The maximum number of registered timers, of all plugins together.
pub const MAX_TIMERS: usize = 1000;

/// The extension points of one plugin: hooks in the order in which it listed them, the others
/// sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Lambdas; names are unique.
    pub ops: Vec<OpPoint>,
    /// Handlers; combinations of path and method are unique.
    pub handlers: Vec<HandlerPoint>,
    /// Database hooks.
    pub hooks: Vec<HookPoint>,
    /// Timers.
    pub timers: Vec<TimerPoint>,
    /// Auth providers; ids are unique.
    pub providers: Vec<ProviderPoint>,
    /// How many events it listens to; every event is sent to every plugin.
    pub num_events: usize,
}

/// How a point is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallPolicy {
    /// The point's own limit.
    pub timeout: Option<Duration>,
    /// Whether a request can go to another worker when the first was lost with it.
    pub is_idempotent: bool,
}

/// Who may call a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointAccess {
    /// Whether a key or a token is required.
    pub key_required: bool,
    /// Whether a signed-in user is required.
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
    /// The name that the plugin gave it.
    pub name: String,
    /// The path that is derived from the name.
    pub path: String,
    /// One method, in upper case.
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
    /// Whether no caller waits for its answer.
    pub is_async: bool,
    /// What it is told about events that happened while the plugin was away.
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
    pub zone: Option<Zone>,
    /// What happens when it is due while a run is in progress.
    pub overlap: Overlap,
    /// How it is called.
    pub call: CallPolicy,
}

/// An auth provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderPoint {
    /// The id by which clients name it.
    pub id: String,
    /// How it is called.
    pub call: CallPolicy,
}

impl Registration {
    /// Returns how many points there are.
    pub fn num_points(&self) -> usize {
        self.ops.len()
            + self.handlers.len()
            + self.hooks.len()
            + self.timers.len()
            + self.providers.len()
    }

    /// Returns the number of points of each kind, as sent in `registered`.
    pub fn counts(&self) -> Json {
        json!({
            "op": self.ops.len(),
            "handler": self.handlers.len(),
            "hook": self.hooks.len(),
            "timer": self.timers.len(),
            "provider": self.providers.len(),
        })
    }

    /// Describes each point in one line, by kind, for the log.
    pub fn lines(&self) -> BTreeMap<String, BTreeSet<String>> {
        let hook = |point: &HookPoint| {
            let trigger = point.trigger.name();
            format!("{trigger} {} {}", point.record_type, point.name)
        };
        let ops = self.ops.iter().map(|point| point.name.clone());
        let handlers = self.handlers.iter();
        let handlers = handlers.map(|point| format!("{} {}", point.method, point.path));
        let timers = self.timers.iter();
        let timers = timers.map(|point| format!("{} {}", point.name, point.spec_text));
        let providers = self.providers.iter().map(|point| point.id.clone());
        let kinds: [(&str, BTreeSet<String>); 5] = [
            ("op", ops.collect()),
            ("handler", handlers.collect()),
            ("hook", self.hooks.iter().map(hook).collect()),
            ("timer", timers.collect()),
            ("provider", providers.collect()),
        ];
        let kinds = kinds.into_iter().filter(|(_, lines)| !lines.is_empty());
        kinds
            .map(|(kind, lines)| (kind.to_owned(), lines))
            .collect()
    }

    /// Describes the points in which it differs from another registration, for people.
    pub fn differences(&self, other: &Self) -> String {
        let (ours, theirs) = (self.described(), other.described());
        let only = |these: &Described, those: &Described| -> Vec<String> {
            let names = these.keys().filter(|name| !those.contains_key(*name));
            names.cloned().collect()
        };
        let is_otherwise = |(name, point): &(&String, &String)| {
            theirs.get(*name).is_some_and(|theirs| theirs != *point)
        };
        let otherwise = ours.iter().filter(is_otherwise);
        let found = [
            ("only here", only(&ours, &theirs)),
            ("only there", only(&theirs, &ours)),
            (
                "different there",
                otherwise.map(|(name, _)| name.clone()).collect(),
            ),
        ];
        let parts = found.iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<_> = parts
            .map(|(what, names)| format!("{what}: {}", few(names)))
            .collect();
        if parts.is_empty() {
            return "in the order of points, or in the number of events".to_owned();
        }
        parts.join("; ")
    }

    /// Returns each point by kind and name, with its complete definition.
    fn described(&self) -> Described {
        let mut all = Described::new();
        let mut add = |kind: &str, name: &str, point: &dyn std::fmt::Debug| {
            let said = all.entry(format!("{kind} {name}")).or_default();
            *said = format!("{said}{point:?}");
        };
        self.ops.iter().for_each(|it| add("op", &it.name, it));
        self.handlers
            .iter()
            .for_each(|it| add("handler", &it.name, it));
        self.hooks.iter().for_each(|it| add("hook", &it.name, it));
        self.timers.iter().for_each(|it| add("timer", &it.name, it));
        self.providers
            .iter()
            .for_each(|it| add("provider", &it.id, it));
        all
    }

    /// Returns the handlers with a path that another plugin's registration has, too.
    pub fn clashes<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a HandlerPoint> {
        let is_theirs = |path: &str| other.handlers.iter().any(|theirs| theirs.path == path);
        self.handlers
            .iter()
            .filter(move |ours| is_theirs(&ours.path))
    }

    /// Returns the lambdas and auth providers that another plugin's registration has, too, by kind
    /// and name. Of these, the later plugin's count.
    pub fn shadows<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let ops = self.ops.iter().map(|point| ("op", &*point.name));
        let providers = self.providers.iter().map(|point| ("provider", &*point.id));
        ops.chain(providers)
            .filter(move |(kind, name)| other.has(kind, name))
    }

    /// Returns whether it has a point with a kind and a name.
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

    /// Returns the points, by kind and name, whose requests can be sent again to another worker.
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
}

/// Points by kind and name.
type Described = BTreeMap<String, String>;

/// Lists the first few names.
fn few(names: &[String]) -> String {
    /// More would hide the rest of the message.
    const FEW: usize = 10;
    let named: Vec<_> = names.iter().take(FEW).map(String::as_str).collect();
    let num_left = names.len() - named.len();
    let rest = if num_left == 0 {
        String::new()
    } else {
        format!(" and {num_left} more")
    };
    named.join(", ") + &rest
}

/// Creates a problem.
pub fn problem(list: &str, name: &str, message: &str) -> Problem {
    Problem {
        list: list.to_owned(),
        name: name.to_owned(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
