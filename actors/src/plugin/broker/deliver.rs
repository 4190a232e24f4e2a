//! Deliveries through the gate: their limits, and how failed ones are classified.

use std::sync::Arc;

use serde_json::Value as Json;
use skytrail_schema::code::{ApiError, Code};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::gate::PluginBroker;
use crate::plugin::errors::timed_out;
use crate::plugin::gate::{DeliveryNote, PluginCallError, PluginRequest, Urgency};
use crate::plugin::messages::{Expedite, Job, Lease, Silence};

impl PluginBroker {
    pub(super) async fn deliver_job(
        &self,
        request: PluginRequest,
        note: DeliveryNote,
        urgency: Urgency,
    ) -> Result<Json, PluginCallError> {
        let plugin = Arc::clone(&request.plugin);
        let own = self.settings().timeout_of(&plugin);
        let limit = request.timeout.unwrap_or(own);
        let deadline = Instant::now() + limit;
        let (until, lease) = watch::channel(deadline);
        let mut job = self
            .job(request, deadline)
            .map_err(PluginCallError::Refused)?;
        job.delivery = Some(Box::new(Lease { note, limit, until }));
        let silence = Arc::clone(&job.silence);
        let answer = self.wait_for_delivery(job, &lease, urgency).await;
        answer.map_err(|undelivered| match undelivered {
            PluginCallError::Refused(error) => classify(error, &plugin, silence.get()),
            other => other,
        })
    }

    /// Waits until the limit that the worker restarted last.
    async fn wait_for_delivery(
        &self,
        job: Box<Job>,
        lease: &watch::Receiver<Instant>,
        mut urgency: Urgency,
    ) -> Result<Json, PluginCallError> {
        let (plugin, ticket) = (Arc::clone(&job.plugin), job.ticket);
        let (mut guard, mut answer) = self.send(job).map_err(PluginCallError::Unready)?;
        loop {
            let deadline = *lease.borrow();
            tokio::select! {
                answer = &mut answer => {
                    let answer = guard.take(answer, &plugin);
                    return answer.map_err(PluginCallError::Refused);
                }
                Ok(()) = urgency.changed() => {
                    let via = urgency.borrow_and_update().clone();
                    // If the mailbox is full, the delivery keeps waiting for its turn.
                    let _ = self.plugins.try_send(Expedite { ticket, via });
                    continue;
                }
                () = sleep_until(deadline) => {}
            }
            if *lease.borrow() <= deadline {
                guard.pass(deadline);
                let transport = self.settings().transport_of(&plugin);
                return Err(PluginCallError::Late(timed_out(&plugin, transport)));
            }
        }
    }
}

/// Tells the plugin's own errors from those on the way to it.
pub(super) fn classify(
    error: ApiError,
    plugin: &str,
    silence: Option<&Silence>,
) -> PluginCallError {
    match silence {
        Some(Silence::Lost) => return PluginCallError::Lost(error),
        Some(Silence::Unreached) => return PluginCallError::Unready(error),
        None => {}
    }
    let text = |name: &str| error.info.get(name).and_then(Json::as_str);
    let is_about = error.code == Code::PluginUnavailable && text("plugin") == Some(plugin);
    match text("reason").filter(|_| is_about) {
        Some("no-worker" | "queue-full") => PluginCallError::Unready(error),
        Some("worker-lost") => PluginCallError::Lost(error),
        // Larger than the worker takes: the worker has not seen it.
        _ if error.status() == 413 => PluginCallError::Lost(error),
        _ => PluginCallError::Refused(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::errors::{Unavailable, too_large, unavailable};

    #[test]
    fn only_what_the_plugin_said_itself_is_its_refusal() {
        let lost = |why| classify(unavailable("P", why), "P", None);
        assert!(matches!(
            lost(Unavailable::WorkerLost),
            PluginCallError::Lost(_)
        ));
        assert!(matches!(
            lost(Unavailable::NoWorker),
            PluginCallError::Unready(_)
        ));
        assert!(matches!(
            lost(Unavailable::QueueFull),
            PluginCallError::Unready(_)
        ));
        assert!(matches!(
            classify(too_large(2, 1, 1), "P", None),
            PluginCallError::Lost(_)
        ));
        let of_another = unavailable("Q", Unavailable::WorkerLost);
        assert!(matches!(
            classify(of_another, "P", None),
            PluginCallError::Refused(_)
        ));
        let own = ApiError::new(Code::BadRequest, "no");
        assert!(matches!(
            classify(own, "P", None),
            PluginCallError::Refused(_)
        ));
    }
}
