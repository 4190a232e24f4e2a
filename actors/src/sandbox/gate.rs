//! The gate to a plugin under trial: its hooks only, each told that it is only tried.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value as Json;
use tokio::sync::watch;

use crate::plugin::{
    DeliveryNote, ExtensionPoints, PluginCallError, PluginGate, PluginRequest, Presence, Readiness,
    Trigger, Urgency,
};

/// How long a hook can take at most: a page of writes must be answered in time.
const LIMIT: Duration = Duration::from_secs(10);

/// See the module's overview.
pub(super) struct Stage {
    inner: Arc<dyn PluginGate>,
    points: Arc<ExtensionPoints>,
}

impl Stage {
    /// Takes those of the plugin's registered hooks whose answers count. Nobody uses the answers of
    /// asynchronous before-hooks, so those hooks are not asked.
    pub(super) fn of(inner: &Arc<dyn PluginGate>, plugin: &Arc<str>) -> Self {
        let all = inner.points();
        let mut points = ExtensionPoints {
            readiness: Readiness::Ready,
            ..ExtensionPoints::default()
        };
        for (key, hooks) in &all.hooks {
            let is_before = matches!(key.1, Trigger::BeforeSave | Trigger::BeforeDelete);
            let own = hooks.iter().filter(|hook| hook.plugin == *plugin);
            let own: Vec<_> = own
                .filter(|hook| !(is_before && hook.is_async))
                .cloned()
                .collect();
            if !own.is_empty() {
                points.hooks.insert(key.clone(), own);
            }
        }
        Self {
            inner: Arc::clone(inner),
            points: Arc::new(points),
        }
    }
}

#[async_trait]
impl PluginGate for Stage {
    fn points(&self) -> Arc<ExtensionPoints> {
        Arc::clone(&self.points)
    }

    async fn ask(&self, request: PluginRequest) -> Result<Json, PluginCallError> {
        self.inner.ask(tried(request)).await
    }

    async fn deliver(
        &self,
        request: PluginRequest,
        note: DeliveryNote,
        urgency: Urgency,
    ) -> Result<Json, PluginCallError> {
        self.inner.deliver(tried(request), note, urgency).await
    }

    fn announce(&self, _: &'static str, _: Json) {}

    fn presence(&self, plugin: &str) -> Presence {
        self.inner.presence(plugin)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes()
    }
}

/// Marks a request as only a trial of the plugin.
fn tried(mut request: PluginRequest) -> PluginRequest {
    request.timeout = Some(request.timeout.map_or(LIMIT, |own| own.min(LIMIT)));
    if let Some(context) = &mut request.context {
        context.sandbox = true;
    }
    request
}
