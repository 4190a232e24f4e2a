//! The events of a worker's and the server's start, in their order.
//!
//! A worker gets `before-config`, `init` and, when its registration is accepted, `after-config`.
//! When every plugin has come this far, `before-plugins-ready` is sent to each in turn. Then
//! clients are served. Then `after-plugins-ready` and `server-ready` are sent, each to every plugin
//! in turn. Only the answer to `init` is used; a failure at another event changes nothing, and is
//! logged, except at `before-config`. A worker that does not answer delays the others a little, and
//! clients by its limit at most.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Addr, AsyncContext, Context, WeakAddr};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::actor::Plugins;
use super::gate::{Shared, written};
use crate::plugin::connection::PluginConnection;
use crate::plugin::errors::{Unavailable, timed_out, unavailable};
use crate::plugin::gate::{Lineage, WorkerId};
use crate::plugin::messages::{
    Abandon, Answer, Configured, Dispatch, Initialised, Job, Lane, Notice, Prepared, Silence,
};
use crate::plugin::protocol::CancelReason;
use crate::plugin::settings::PluginsSettings;

/// How long a plugin has at most before the next one gets an event, too.
const TURN: Duration = Duration::from_secs(1);

/// Sends events to one worker.
#[derive(Clone)]
pub(super) struct WorkerNotifier {
    pub(super) worker: WorkerId,
    pub(super) plugin: Arc<str>,
    pub(super) address: Addr<PluginConnection>,
    pub(super) shared: Arc<Shared>,
    pub(super) settings: Arc<PluginsSettings>,
}

impl WorkerNotifier {
    /// Sends an event with the server's configuration and waits for the answer.
    async fn tell(&self, name: &'static str, limit: Duration) -> Answer {
        let param = json!({"config": *self.settings.config});
        self.tell_with(name, &param, limit).await
    }

    /// Sends an event of the start. A failure changes nothing; it is only logged.
    async fn tell_or_warn(&self, name: &'static str) {
        if let Err(error) = self.tell(name, self.limit()).await {
            let (plugin, error) = (&self.plugin, error.message);
            tracing::warn!(%plugin, event = name, error, "the plugin failed at an event");
        }
    }

    /// Sends an event and waits for the answer.
    pub(super) async fn tell_with(
        &self,
        name: &'static str,
        param: &serde_json::Value,
        limit: Duration,
    ) -> Answer {
        self.ask(name, param, limit).await.0
    }

    /// Sends an event and waits for the answer; also returns why there is none.
    async fn ask(
        &self,
        name: &'static str,
        param: &serde_json::Value,
        limit: Duration,
    ) -> (Answer, Option<Silence>) {
        let silence = Arc::default();
        let answer = self.send(name, param, limit, &silence).await;
        (answer, silence.get().copied())
    }

    async fn send(
        &self,
        name: &'static str,
        param: &serde_json::Value,
        limit: Duration,
        silence: &Arc<OnceLock<Silence>>,
    ) -> Answer {
        let lost = || unavailable(&self.plugin, Unavailable::WorkerLost);
        let now = Instant::now();
        let deadline = now + limit;
        let ticket = self.shared.next_ticket();
        let (sender, answer) = oneshot::channel();
        let job = Job {
            ticket,
            plugin: Arc::clone(&self.plugin),
            kind: "event",
            name: name.to_owned(),
            param: written(param)?,
            context: None,
            lineage: Lineage::default(),
            arrived: now,
            deadline,
            is_idempotent: false,
            lane: Lane::Lifecycle,
            delivery: None,
            silence: Arc::clone(silence),
            reply: Some(sender),
        };
        let answered = async {
            self.address
                .send(Dispatch(Box::new(job)))
                .await
                .map_err(|_| lost())?;
            answer.await.unwrap_or_else(|_| Err(lost()))
        };
        let outcome = timeout_at(deadline, answered).await;
        let outcome = outcome.unwrap_or_else(|_| {
            let reason = CancelReason::Deadline;
            let _ = self
                .address
                .try_send(Notice::Cancel(Abandon { ticket, reason }));
            Err(timed_out(
                &self.plugin,
                self.settings.transport_of(&self.plugin),
            ))
        });
        let point = (&self.plugin, "event", name);
        self.shared.recent.note(point, now, outcome.as_ref().err());
        outcome
    }

    /// Sends an event in the background; nothing waits for the answer.
    pub(super) fn tell_beside(
        self,
        name: &'static str,
        param: Arc<serde_json::Value>,
        ctx: &mut Context<Plugins>,
    ) {
        ctx.spawn(wrap_future(async move {
            let _ = self.tell_with(name, &param, self.limit()).await;
        }));
    }

    fn limit(&self) -> Duration {
        self.settings.timeout_of(&self.plugin)
    }
}

/// Takes a worker from `hello` to where it can serve.
pub(super) async fn greet(notifier: WorkerNotifier, plugins: WeakAddr<Plugins>) {
    let worker = notifier.worker;
    let _ = notifier.tell("before-config", notifier.limit()).await;
    let param = json!({"config": *notifier.settings.config});
    let limit = notifier.settings.init_timeout;
    let (answer, silence) = notifier.ask("init", &param, limit).await;
    let Some(plugins) = plugins.upgrade() else {
        return;
    };
    let initialised = Initialised {
        worker,
        answer,
        silence,
    };
    if plugins.send(initialised).await.unwrap_or(false) {
        notifier.tell_or_warn("after-config").await;
        let _ = plugins.send(Configured(worker)).await;
    }
}

/// Tells plugins something in turn. A plugin that does not answer soon no longer delays the others;
/// returns when all have answered, or failed to.
async fn tell_in_turn(notifiers: &[WorkerNotifier], name: &'static str) {
    let mut telling = FuturesUnordered::new();
    for notifier in notifiers {
        telling.push(notifier.tell_or_warn(name));
        let _ = timeout(TURN, async { while telling.next().await.is_some() {} }).await;
    }
    while telling.next().await.is_some() {}
}

/// Prepares plugins for clients; with `generation_of`, only that worker's generation.
pub(super) async fn prepare(
    notifiers: Vec<WorkerNotifier>,
    generation_of: Option<WorkerId>,
    plugins: WeakAddr<Plugins>,
) {
    tell_in_turn(&notifiers, "before-plugins-ready").await;
    if let Some(plugins) = plugins.upgrade() {
        let _ = plugins.send(Prepared { generation_of }).await;
    }
}

/// Tells plugins that clients are served.
pub(super) async fn proclaim(notifiers: Vec<WorkerNotifier>) {
    for name in ["after-plugins-ready", "server-ready"] {
        tell_in_turn(&notifiers, name).await;
    }
}
