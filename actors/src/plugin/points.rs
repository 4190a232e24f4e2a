//! Extension points: what plugins have registered, in the form that the rest of the server looks
//! up.
//!
//! An [`ExtensionPoints`] is a snapshot, which does not change for its holder. Checking that a type has no
//! hooks costs one map lookup.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{TaskId, TypeName};

use super::registration::{Registration, TimerPoint};
use super::routes::{Route, Routes};
use super::timer_spec::TimerSpec;
use crate::task::Zone;

/// When a database hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Trigger {
    /// Before a record is saved; can change or refuse it.
    BeforeSave,
    /// After it was saved.
    AfterSave,
    /// Before a record is deleted; can refuse.
    BeforeDelete,
    /// After it was deleted.
    AfterDelete,
}

impl Trigger {
    /// Returns the name that plugins know.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeSave => "beforeSave",
            Self::AfterSave => "afterSave",
            Self::BeforeDelete => "beforeDelete",
            Self::AfterDelete => "afterDelete",
        }
    }

    /// Returns whether it runs after the commit.
    pub fn is_after(self) -> bool {
        matches!(self, Self::AfterSave | Self::AfterDelete)
    }
}

/// What an after-hook is told about events that happened while its plugin was away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// Everything.
    #[default]
    All,
    /// Only the last event of each record.
    Latest,
    /// Nothing.
    None,
}

/// A registered database hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The plugin.
    pub plugin: Arc<str>,
    /// The hook's name at the plugin.
    pub name: String,
    /// The record type.
    pub record_type: TypeName,
    /// When it runs.
    pub trigger: Trigger,
    /// Whether no caller waits for its answer.
    pub is_async: bool,
    /// What it is told about events that happened while the plugin was away.
    pub catch_up: CatchUp,
    /// Its own limit, if it has one.
    pub timeout: Option<Duration>,
}

/// A registered lambda.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lambda {
    /// The plugin.
    pub plugin: Arc<str>,
    /// The action's name.
    pub name: String,
    /// Whether a key or a token is required.
    pub key_required: bool,
    /// Whether a signed-in user is required.
    pub user_required: bool,
    /// Its own limit, if it has one.
    pub timeout: Option<Duration>,
}

/// A registered handler of HTTP requests below one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// The plugin.
    pub plugin: Arc<str>,
    /// The name at the plugin.
    pub name: String,
    /// The path: exact, or with a `/` at its end everything below it.
    pub path: String,
    /// The method.
    pub method: String,
    /// Whether a key or a token is required.
    pub key_required: bool,
    /// Whether a signed-in user is required.
    pub user_required: bool,
    /// Its own limit, if it has one.
    pub timeout: Option<Duration>,
}

/// A registered auth provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The plugin.
    pub plugin: Arc<str>,
    /// Its own limit, if it has one.
    pub timeout: Option<Duration>,
}

/// What happens when a task is due while one of its runs is in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// This run is skipped.
    #[default]
    Skip,
    /// Another run begins.
    Allow,
}

/// A registered timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// The task that it creates; timers of one plugin with the same name are told apart by a
    /// number.
    pub id: TaskId,
    /// The name at the plugin.
    pub name: String,
    /// When it is due.
    pub spec: TimerSpec,
    /// The spec as it was written.
    pub spec_text: String,
    /// The time zone, if it names one.
    pub zone: Option<Zone>,
    /// What happens when it is due while a run is in progress.
    pub overlap: Overlap,
    /// Its own limit, if it has one.
    pub timeout: Option<Duration>,
}

/// How far the plugins are, as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Readiness {
    /// Some plugin has not been initialised yet.
    #[default]
    Unavailable,
    /// All are initialised; some are still preparing.
    Initializing,
    /// Clients are served.
    Ready,
}

impl Readiness {
    /// Refuses a request that arrives too early. While plugins prepare, only their own requests are
    /// served: those with the master key and `_from_plugin`.
    ///
    /// # Errors
    /// 118 while a plugin is missing, 121 while plugins prepare; both with HTTP 503.
    pub fn check(self, is_own_request: bool) -> Result<(), ApiError> {
        match self {
            Self::Ready => Ok(()),
            Self::Initializing if is_own_request => Ok(()),
            Self::Initializing => Err(ApiError::new(
                Code::PluginInitializing,
                "Plugins are initializing at the moment",
            )
            .with_status(503)),
            Self::Unavailable => Err(ApiError::new(
                Code::PluginUnavailable,
                "plugins are unavailable at the moment",
            )),
        }
    }
}

/// A handler that hides actions: its plugin and its path.
pub type Hider = (Arc<str>, String);

/// Everything that plugins have registered.
#[derive(Clone, Debug, Default)]
pub struct ExtensionPoints {
    /// Hooks in the order in which they run.
    pub hooks: HashMap<(TypeName, Trigger), Vec<Hook>>,
    /// Lambdas by name.
    pub lambdas: HashMap<String, Lambda>,
    /// Handlers by path.
    pub handlers: Routes,
    /// Auth providers by id.
    pub providers: HashMap<String, Provider>,
    /// Timers in the order of plugins and registrations.
    pub timers: Vec<Timer>,
    /// The plugins that have a worker.
    pub attended: HashSet<Arc<str>>,
    /// How far the plugins are, as a whole.
    pub readiness: Readiness,
    /// What each plugin has registered, unchanged.
    pub registrations: Vec<(Arc<str>, Arc<Registration>)>,
}

impl ExtensionPoints {
    /// Combines what plugins have registered; if two use the same name, the later plugin's counts.
    pub fn build<'a>(
        readiness: Readiness,
        registrations: impl IntoIterator<Item = (&'a Arc<str>, &'a Registration)>,
    ) -> Self {
        let mut points = Self {
            readiness,
            ..Self::default()
        };
        for (plugin, registration) in registrations {
            points.add(plugin, registration);
        }
        points
    }

    fn add(&mut self, plugin: &Arc<str>, registration: &Registration) {
        for op in &registration.ops {
            let lambda = Lambda {
                plugin: Arc::clone(plugin),
                name: op.name.clone(),
                key_required: op.access.key_required,
                user_required: op.access.user_required,
                timeout: op.call.timeout,
            };
            self.lambdas.insert(op.name.clone(), lambda);
        }
        for point in &registration.hooks {
            let key = (point.record_type.clone(), point.trigger);
            self.hooks.entry(key).or_default().push(Hook {
                plugin: Arc::clone(plugin),
                name: point.name.clone(),
                record_type: point.record_type.clone(),
                trigger: point.trigger,
                is_async: point.is_async,
                catch_up: point.catch_up,
                timeout: point.call.timeout,
            });
        }
        for point in &registration.handlers {
            self.handlers.add(Handler {
                plugin: Arc::clone(plugin),
                name: point.name.clone(),
                path: point.path.clone(),
                method: point.method.clone(),
                key_required: point.access.key_required,
                user_required: point.access.user_required,
                timeout: point.call.timeout,
            });
        }
        for point in &registration.providers {
            let provider = Provider {
                plugin: Arc::clone(plugin),
                timeout: point.call.timeout,
            };
            self.providers.insert(point.id.clone(), provider);
        }
        for point in &registration.timers {
            let timer = self.timer(plugin, point);
            self.timers.push(timer);
        }
    }

    /// Tells a timer apart from earlier ones with the same name: `tick`, `tick#2`, `tick#3`.
    fn timer(&self, plugin: &Arc<str>, point: &TimerPoint) -> Timer {
        let named = |id: &TaskId| self.timers.iter().any(|earlier| earlier.id == *id);
        let mut id = TaskId::new(Arc::clone(plugin), point.name.as_str());
        let mut number = 2;
        while named(&id) {
            id.name = format!("{}#{number}", point.name).into();
            number += 1;
        }
        Timer {
            id,
            name: point.name.clone(),
            spec: point.spec.clone(),
            spec_text: point.spec_text.clone(),
            zone: point.zone.clone(),
            overlap: point.overlap,
            timeout: point.call.timeout,
        }
    }

    /// Returns the hooks of a type for a trigger, in the order in which they run.
    pub fn hooks(&self, record_type: &TypeName, trigger: Trigger) -> &[Hook] {
        if self.hooks.is_empty() {
            return &[];
        }
        self.hooks
            .get(&(record_type.clone(), trigger))
            .map_or(&[], Vec::as_slice)
    }

    /// Returns the actions and lambdas whose paths are taken by handlers.
    ///
    /// Clients ask for actions by `POST`, so an action is hidden if a handler has its path for that
    /// method.
    pub fn hidden(&self, actions: &[&str]) -> BTreeMap<Hider, BTreeSet<String>> {
        let mut hidden = BTreeMap::<_, BTreeSet<_>>::new();
        if self.handlers.is_empty() {
            return hidden;
        }
        let lambdas = self.lambdas.keys().map(String::as_str);
        // A lambda with a `/` in its name has no path.
        for name in lambdas
            .chain(actions.iter().copied())
            .filter(|name| !name.contains('/'))
        {
            let path = format!("/{}", name.replace(':', "/"));
            if let Some(Route::Handler(handler)) = self.handlers.find(&path, "POST") {
                let hider = (Arc::clone(&handler.plugin), handler.path.clone());
                hidden.entry(hider).or_default().insert(name.to_owned());
            }
        }
        hidden
    }

    /// Returns the lambda with an action's name.
    pub fn lambda(&self, name: &str) -> Option<&Lambda> {
        self.lambdas.get(name)
    }
}
