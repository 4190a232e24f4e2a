//! Plugins see files with their media types and addresses.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value as Json;
use tokio::sync::watch;

use super::AssetCatalog;
use crate::plugin::{
    DeliveryNote, ExtensionPoints, PluginCallError, PluginGate, PluginRequest, Presence, Urgency,
};

/// A gate to the plugins that completes the files in what is sent there.
pub struct AssetGate {
    /// The gate itself.
    pub inner: Arc<dyn PluginGate>,
    /// What is known of files.
    pub assets: AssetCatalog,
}

#[async_trait]
impl PluginGate for AssetGate {
    fn points(&self) -> Arc<ExtensionPoints> {
        self.inner.points()
    }

    async fn ask(&self, mut request: PluginRequest) -> Result<Json, PluginCallError> {
        if request.kind == "hook" {
            // Records have their media types already.
            self.assets.sign_json(&mut request.param);
        } else {
            let completed = self.assets.complete_json(&mut request.param).await;
            completed.map_err(PluginCallError::Refused)?;
        }
        self.inner.ask(request).await
    }

    fn announce(&self, name: &'static str, param: Json) {
        self.inner.announce(name, param);
    }

    async fn deliver(
        &self,
        mut request: PluginRequest,
        note: DeliveryNote,
        urgency: Urgency,
    ) -> Result<Json, PluginCallError> {
        self.assets.sign_json(&mut request.param);
        self.inner.deliver(request, note, urgency).await
    }

    fn presence(&self, plugin: &str) -> Presence {
        self.inner.presence(plugin)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes()
    }
}
