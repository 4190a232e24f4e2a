//! What plugins find in the tables: everything that was saved before they are asked, unless the tables
//! take longer than two seconds for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value as Json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::CaptureGate;
use crate::plugin::{
    DeliveryNote, ExtensionPoints, PluginCallError, PluginGate, PluginRequest, Presence, Urgency,
};
use crate::projector::Applied;
use crate::record::write_model::WriteModel;

/// How long a request waits until the tables have what was saved before.
const SHOWN_DEADLINE: Duration = Duration::from_secs(2);

impl CaptureGate {
    /// Waits until the tables have everything that is committed by now, if others can use them by
    /// SQL; at most two seconds, and half of the time that is left before `deadline`.
    ///
    /// Nobody waits while the tables lack something that was waited for in vain: the store is away,
    /// or held up, perhaps by the plugin itself.
    pub async fn show(&self, applied: &Applied, model: &WriteModel, deadline: Option<Instant>) {
        if !self.is_served() {
            return;
        }
        let position = model.position();
        let missed = self.missed();
        if applied.position() < missed.load(Ordering::Relaxed) {
            return;
        }
        let remaining = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let max_wait = remaining.map_or(SHOWN_DEADLINE, |time| SHOWN_DEADLINE.min(time / 2));
        let shown = applied.wait_for(position);
        let is_late = tokio::time::timeout(max_wait, shown).await.is_err();
        if is_late && max_wait == SHOWN_DEADLINE {
            missed.fetch_max(position, Ordering::Relaxed);
        }
    }
}

/// A gate to plugins that use SQL. Every request to a plugin waits, for at most two seconds, until the
/// tables have what was committed before it.
pub struct ShownGate {
    /// The gate itself.
    pub inner: Arc<dyn PluginGate>,
    /// Whether plugins can use SQL.
    pub captured: CaptureGate,
    /// How far the tables are.
    pub applied: Applied,
    /// Which position they have to reach.
    pub model: Arc<WriteModel>,
}

impl ShownGate {
    async fn show(&self, request: &PluginRequest) {
        // A plugin that asks may hold the lock that the store waits for.
        let may_be_of_plugin = request
            .context
            .as_ref()
            .is_some_and(|it| it.may_be_of_plugin);
        let is_from_plugin = may_be_of_plugin || !request.lineage.via.is_empty();
        let applied = match is_from_plugin {
            true => &self.applied.going_on_if_locked(),
            false => &self.applied,
        };
        self.captured
            .show(applied, &self.model, request.deadline)
            .await;
    }
}

#[async_trait]
impl PluginGate for ShownGate {
    fn points(&self) -> Arc<ExtensionPoints> {
        self.inner.points()
    }

    async fn ask(&self, request: PluginRequest) -> Result<Json, PluginCallError> {
        self.show(&request).await;
        self.inner.ask(request).await
    }

    fn announce(&self, name: &'static str, param: Json) {
        self.inner.announce(name, param);
    }

    async fn deliver(
        &self,
        request: PluginRequest,
        note: DeliveryNote,
        urgency: Urgency,
    ) -> Result<Json, PluginCallError> {
        self.show(&request).await;
        self.inner.deliver(request, note, urgency).await
    }

    fn presence(&self, plugin: &str) -> Presence {
        self.inner.presence(plugin)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::projector::AppliedSender;
    use crate::store::Snapshot;

    /// The state after a commit that reaches `position`.
    fn model(position: u64) -> WriteModel {
        let snapshot = Snapshot {
            checkpoint: position,
            ..Snapshot::default()
        };
        WriteModel::new(&snapshot, 1 << 20)
    }

    #[tokio::test(start_paused = true)]
    async fn plugins_wait_for_what_is_committed_if_they_can_see_tables() {
        let sender = AppliedSender::new(3);
        let (gate, applied, model) = (CaptureGate::default(), sender.subscribe(), model(7));
        let show = || Box::pin(gate.show(&applied, &model, None));
        assert_eq!(show().now_or_never(), Some(()), "there are no tables");
        gate.serve();
        let mut shown = show();
        assert!(shown.as_mut().now_or_never().is_none());
        sender.reached(6);
        assert!(shown.as_mut().now_or_never().is_none());
        sender.reached(7);
        assert_eq!(shown.now_or_never(), Some(()));
        assert_eq!(show().now_or_never(), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_waited_for_in_vain_is_not_waited_for_again() {
        let sender = AppliedSender::new(3);
        let (gate, applied) = (CaptureGate::default(), sender.subscribe());
        gate.serve();
        let began = Instant::now();
        gate.show(&applied, &model(7), None).await;
        assert_eq!(began.elapsed(), SHOWN_DEADLINE);
        sender.reached(6);
        let later = model(9);
        assert_eq!(gate.show(&applied, &later, None).now_or_never(), Some(()));
        // The store has caught up with what was waited for.
        sender.reached(7);
        let began = Instant::now();
        let deadline = Some(began + Duration::from_secs(1));
        gate.show(&applied, &later, deadline).await;
        assert_eq!(began.elapsed(), Duration::from_millis(500));
        // A request that had little time says nothing for the others.
        assert_eq!(gate.show(&applied, &later, None).now_or_never(), None);
    }
}
