//! The parts that decide and write: records and accounts, with the plugins and files that they
//! need.

use std::sync::Arc;

use skytrail_actors::accounts::Accounts;
use skytrail_actors::asset::{AssetCatalog, AssetGate};
use skytrail_actors::capture::{CaptureAdmin, CaptureGate, CaptureSource, Captures, ShownGate};
use skytrail_actors::device::Devices;
use skytrail_actors::plugin::{PluginBroker, PluginGate, record_registrations};
use skytrail_actors::projector::Applied;
use skytrail_actors::record::env::RecordEnv;
use skytrail_actors::record::fence::Fences;
use skytrail_actors::record::records::Records;
use skytrail_actors::sandbox::Sandbox;
use skytrail_actors::{install, spawn};

use super::{StartContext, StartError, background, settings};
use crate::asset::Files;

/// The parts that decide and write.
pub(super) struct Domain {
    pub(super) env: RecordEnv,
    pub(super) broker: PluginBroker,
    /// The plugins that are only tried out.
    pub(super) tried: PluginBroker,
    pub(super) files: Arc<Files>,
    pub(super) records: Arc<Records>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) devices: Arc<Devices>,
    pub(super) captured: CaptureAdmin,
    pub(super) sandbox: Arc<Sandbox>,
}

impl Domain {
    /// Opens the parts on a record store whose position is `applied`; the first start installs.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(super) async fn open(on: &StartContext<'_>, applied: Applied) -> Result<Self, StartError> {
        let (config, keys, core) = (on.config, on.keys, on.core);
        let clock = Arc::clone(&core.clock);
        let files = Files::open(config, &keys.asset_secret, Arc::clone(&clock)).await?;
        let assets = AssetCatalog {
            store: Arc::clone(&core.store) as _,
            model: Arc::clone(&core.model),
            applied: applied.clone(),
            urls: Arc::clone(&files.urls),
            erasures: Arc::clone(&core.erasures),
        };
        let captured = CaptureGate::default();
        let gate = |broker: &PluginBroker| -> Arc<dyn PluginGate> {
            let shown = ShownGate {
                inner: Arc::new(broker.clone()),
                captured: captured.clone(),
                applied: assets.applied.clone(),
                model: Arc::clone(&assets.model),
            };
            Arc::new(AssetGate {
                inner: Arc::new(shown),
                assets: assets.clone(),
            })
        };
        let connections = on.arbiters.connections.handle();
        let broker = PluginBroker::start(settings::plugins(config, keys), &connections);
        let tried = PluginBroker::start(settings::sandbox(config, keys), &connections);
        let (plugins, stage) = (gate(&broker), gate(&tried));
        let env = RecordEnv {
            log: Arc::clone(&core.log) as _,
            store: Arc::clone(&core.store) as _,
            model: Arc::clone(&core.model),
            applied,
            assets,
            plugins,
            consumers: core.consumers.clone(),
            captured,
            fences: Fences::default(),
            clock,
            max_included_bytes: config.http.limits.included_bytes,
            max_page_bytes: config.http.limits.page_bytes,
        };
        install::install(&env, &config.app.auth_record_keys, config.app.dev_mode).await?;
        let devices = Devices::new(
            env.clone(),
            Arc::clone(&core.store) as _,
            Arc::clone(&core.subscriptions),
            settings::devices(config),
        );
        let domain = Self {
            sandbox: Arc::new(Sandbox::new(tried.clone(), stage, env.clone())),
            records: Arc::new(Records::new(env.clone(), config.http.workers)),
            accounts: Arc::new(settings::accounts(config, keys, env.clone())?),
            devices: Arc::new(devices),
            captured: take_in_captured(on, &env),
            env,
            broker,
            tried,
            files: Arc::new(files),
        };
        domain.learn(on);
        Ok(domain)
    }

    /// Starts to learn the keys of records, and what plugins register.
    fn learn(&self, on: &StartContext<'_>) {
        spawn::spawn_named("learn keys", background::learn_keys(self.env.clone()));
        let plugins = Arc::clone(&self.env.plugins);
        let recording = record_registrations(self.env.clone(), plugins, self.broker.changes());
        let ending = on.core.ending.clone();
        spawn::spawn_named("note registrations", async move {
            ending.run_until_cancelled(recording).await;
        });
    }
}

/// Begins to append to the log what others change by SQL, if the database supports that.
fn take_in_captured(on: &StartContext<'_>, env: &RecordEnv) -> CaptureAdmin {
    let database = on.config.database.as_ref();
    let outbox = database.map(|_| Arc::clone(&on.core.store) as Arc<dyn CaptureSource>);
    if let Some(outbox) = outbox.clone() {
        let captures = Captures::new(env.clone(), outbox, !on.config.plugins.is_empty());
        let taken_in = background::take_in(captures, on.core.ending.clone());
        spawn::spawn_named("captured SQL", taken_in);
    }
    CaptureAdmin::new(env.clone(), outbox)
}
