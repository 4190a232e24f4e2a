//! Registrations: compared with those of others, accepted or refused, and activated.

use std::sync::Arc;

use actix::{Context, Handler};
use tokio::time::Instant;

use super::actor::{Phase, Plugins, notify};
use super::plugin::{Active, Plugin, Stage, Worker};
use crate::plugin::gate::WorkerId;
use crate::plugin::messages::{Answer, Initialised, Notice, Silence};
use crate::plugin::protocol::Problem;
use crate::plugin::registration::{MAX_TIMERS, Registration, problem};
use crate::plugin::settings::TransportKind;

/// Why a registration is refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) problems: Vec<Problem>,
    /// The plugins whose points it clashes with.
    pub(super) clashes: Vec<usize>,
    /// Whether the plugin could not be reached, so that there is no registration.
    pub(super) is_unreached: bool,
}

impl Refused {
    fn unreached(answer: Answer) -> Self {
        let why = answer.err().map(|error| error.message).unwrap_or_default();
        let message = format!("the plugin cannot be reached: {why}");
        Self {
            is_unreached: true,
            ..vec![problem("init", "", &message)].into()
        }
    }
}

impl From<Vec<Problem>> for Refused {
    fn from(problems: Vec<Problem>) -> Self {
        Self {
            problems,
            clashes: Vec::new(),
            is_unreached: false,
        }
    }
}

impl Plugins {
    /// Accepts or refuses a registration; returns whether it was accepted.
    fn initialise(&mut self, message: Initialised, ctx: &mut Context<Self>) -> bool {
        let worker = message.worker;
        let Some(index) = self.homes.get(&worker).copied() else {
            return false;
        };
        let registration = match message.silence {
            Some(Silence::Unreached) => Err(Refused::unreached(message.answer)),
            Some(Silence::Lost) | None => self.check(index, worker, message.answer),
        };
        let Some(plugin) = self.plugins.get_mut(index) else {
            return false;
        };
        if plugin.worker(worker).is_none() {
            return false;
        }
        let registration = match registration {
            Ok(registration) => Arc::new(registration),
            Err(refused) => {
                plugin.note_refusal(&refused);
                let outcome = Err(refused.problems);
                plugin.settle(worker, &outcome);
                if let Some(entry) = plugin.worker(worker) {
                    notify(&entry.address, Notice::Registered(outcome));
                }
                self.ask_holders(&refused.clashes);
                return false;
            }
        };
        let is_reached = self.settings.transport_of(&plugin.name) != TransportKind::WebSocket;
        let counts = registration.counts();
        end_outdated(plugin, worker, &registration);
        plugin.note_registration();
        let Some(entry) = plugin.worker_mut(worker) else {
            return false;
        };
        entry.stage = Stage::Initialised;
        entry.registration = Some(Arc::clone(&registration));
        let generation = entry.generation;
        notify(&entry.address, Notice::Registered(Ok(counts)));
        if is_reached {
            tracing::info!(plugin = %plugin.name, "the plugin has registered");
        }
        if plugin.newest.is_none_or(|(newest, _)| newest <= generation) {
            plugin.newest = Some((generation, Instant::now()));
        }
        let is_known = plugin
            .active
            .as_ref()
            .is_some_and(|active| active.generation == generation);
        // Before clients are served, nobody needs the old registration to continue.
        if is_known || self.phase != Phase::Ready {
            self.activate(index, generation, registration, ctx);
        }
        true
    }

    /// Parses a registration and compares it with those of other plugins and other workers.
    fn check(
        &self,
        index: usize,
        worker: WorkerId,
        answer: Answer,
    ) -> Result<Registration, Refused> {
        let answer = answer.map_err(|error| vec![problem("init", "", &error.message)])?;
        let name = self.plugins.get(index).map_or("", |plugin| &plugin.name);
        let transport = self.settings.transport_of(name);
        let registration = Registration::parse(&answer, transport)?;
        let (mut problems, mut clashing) = (Vec::new(), Vec::new());
        let mut num_timers = registration.timers.len();
        let others = self.plugins.iter().enumerate();
        for (at, other) in others.filter(|(other, _)| *other != index) {
            if let Some(active) = &other.active {
                num_timers += active.registration.timers.len();
                let clashes = registration.clashes(&active.registration);
                let num_before = problems.len();
                problems.extend(clashes.map(|handler| {
                    let message = format!(
                        "plugin {} already has the path {}",
                        other.name, handler.path
                    );
                    problem("handler", &handler.name, &message)
                }));
                clashing.extend((problems.len() > num_before).then_some(at));
            }
        }
        if num_timers > MAX_TIMERS {
            let message = format!("more than {MAX_TIMERS} timers across all plugins");
            problems.push(problem("timer", "", &message));
        }
        let plugin = self.plugins.get(index);
        let is_here = |peer: &&Worker| !peer.capacity.is_suspended;
        let peer = plugin.and_then(|it| differing(it, worker, &registration).find(is_here));
        if let Some(theirs) = peer.and_then(|peer| peer.registration.as_deref()) {
            let what = registration.differences(theirs);
            let message = format!("differs from other workers of the same generation: {what}");
            problems.push(problem("init", "", &message));
        }
        if problems.is_empty() {
            Ok(registration)
        } else {
            Err(Refused {
                problems,
                clashes: clashing,
                is_unreached: false,
            })
        }
    }

    /// Activates a registration, and drains workers of older generations.
    pub(super) fn activate(
        &mut self,
        index: usize,
        generation: u64,
        registration: Arc<Registration>,
        ctx: &mut Context<Self>,
    ) {
        self.warn_of_shadows(index, &registration);
        let Some(plugin) = self.plugins.get_mut(index) else {
            return;
        };
        let before = plugin.active.as_ref().map(|active| &*active.registration);
        let is_changed = before.is_some_and(|before| *before != *registration);
        plugin.active = Some(Active::new(generation, registration));
        for worker in &mut plugin.workers {
            if worker.generation < generation && !worker.is_draining {
                worker.is_draining = true;
                let notice = Notice::Drain {
                    reason: "deploy",
                    reconnect: None,
                    within: None,
                };
                notify(&worker.address, notice);
            }
        }
        self.publish();
        self.warn_of_hidden();
        if let Some(plugin) = self.plugins.get_mut(index) {
            plugin.settle_active();
        }
        if is_changed {
            self.ask_refused(index);
        }
        self.pump(index, ctx);
    }

    /// Logs the actions that handlers hide, when they begin to.
    fn warn_of_hidden(&mut self) {
        let hidden = self.shared.points().hidden(&self.settings.actions);
        for (hider, names) in &hidden {
            let known = self.hidden.get(hider);
            let is_new = |name: &&String| known.is_none_or(|known| !known.contains(*name));
            let new: Vec<_> = names.iter().filter(is_new).map(String::as_str).collect();
            if !new.is_empty() {
                let (plugin, path) = hider;
                let hidden = new.join(", ");
                tracing::warn!(
                    %plugin, path, hidden,
                    "a handler takes over the paths of these actions"
                );
            }
        }
        self.hidden = hidden;
    }

    /// Logs which points a new registration shares with another plugin's, and which plugin's point
    /// counts.
    fn warn_of_shadows(&self, index: usize, registration: &Registration) {
        let active = |plugin: &'_ Plugin| Some(Arc::clone(&plugin.active.as_ref()?.registration));
        let Some(plugin) = self.plugins.get(index) else {
            return;
        };
        if active(plugin).is_some_and(|known| *known == *registration) {
            return;
        }
        for handler in registration
            .handlers
            .iter()
            .filter(|it| it.method == "OPTIONS")
        {
            let (plugin, path) = (&plugin.name, &handler.path);
            tracing::warn!(
                %plugin, path,
                "the server answers OPTIONS itself: no handler is called"
            );
        }
        for (at, other) in self.plugins.iter().enumerate() {
            let Some(theirs) = active(other).filter(|_| at != index) else {
                continue;
            };
            let (earlier, later) = if at < index {
                (other, plugin)
            } else {
                (plugin, other)
            };
            for (kind, name) in registration.shadows(&theirs) {
                tracing::warn!(
                    kind, name, earlier = %earlier.name, later = %later.name,
                    "two plugins have this point; the later one in PLUGINS serves it"
                );
            }
        }
    }
}

/// Returns the other workers of the same generation with a different registration.
fn differing<'a>(
    plugin: &'a Plugin,
    id: WorkerId,
    registration: &'a Registration,
) -> impl Iterator<Item = &'a Worker> {
    let generation = plugin.worker(id).map(|worker| worker.generation);
    plugin.workers.iter().filter(move |worker| {
        let theirs = worker.registration.as_deref();
        worker.id != id
            && Some(worker.generation) == generation
            && !worker.is_draining
            && theirs.is_some_and(|theirs| theirs != registration)
    })
}

/// Ends the sessions of lost workers with a different registration.
///
/// A worker that was restarted with other points need not wait for the session of its former self.
fn end_outdated(plugin: &Plugin, id: WorkerId, registration: &Registration) {
    for worker in differing(plugin, id, registration) {
        notify(&worker.address, Notice::Outdated);
    }
}

impl Handler<Initialised> for Plugins {
    type Result = bool;

    fn handle(&mut self, message: Initialised, ctx: &mut Context<Self>) -> bool {
        self.initialise(message, ctx)
    }
}
