//! What the rest of the server sees of the plugins: points, readiness, presence.

use std::collections::HashSet;
use std::sync::Arc;

use super::actor::{Phase, Plugins};
use super::plugin::{Plugin, Stage};
use crate::plugin::points::{ExtensionPoints, Readiness};

impl Plugins {
    /// Returns how far the plugins are, as a whole. Once they are ready, the loss of a worker makes
    /// only its own points unavailable.
    pub(super) fn readiness(&self) -> Readiness {
        let is_missing =
            |plugin: &Plugin| plugin.is_listed && plugin.first(Stage::Initialised).is_none();
        if self.phase == Phase::Ready {
            Readiness::Ready
        } else if self.plugins.iter().any(is_missing) {
            Readiness::Unavailable
        } else {
            Readiness::Initializing
        }
    }

    /// Publishes what is registered now.
    pub(super) fn publish(&mut self) {
        let active = |plugin: &'_ Plugin| {
            let active = plugin.active.as_ref()?;
            Some((Arc::clone(&plugin.name), Arc::clone(&active.registration)))
        };
        let registrations: Vec<_> = self.plugins.iter().filter_map(active).collect();
        let points = registrations
            .iter()
            .map(|(name, registration)| (name, &**registration));
        let points = ExtensionPoints::build(self.readiness(), points);
        self.shared.publish(ExtensionPoints {
            attended: self.attended(),
            registrations,
            ..points
        });
        // After the points: a reader that sees a plugin registered finds its points.
        for index in 0..self.plugins.len() {
            self.note_presence(index);
        }
    }

    /// Publishes that a plugin has a worker again, or has none any more.
    pub(super) fn note_attendance(&mut self) {
        if self.attended() != self.shared.points().attended {
            self.publish();
        }
    }

    /// Returns the plugins that have a worker.
    fn attended(&self) -> HashSet<Arc<str>> {
        let attended = self.plugins.iter().filter(|plugin| plugin.is_attended());
        attended.map(|plugin| Arc::clone(&plugin.name)).collect()
    }
}
