//! Managing what waits: see [`super::queue`].

use actix::dev::ToEnvelope;
use actix::{Handler, Message};
use skytrail_schema::code::ApiError;
use tokio::time::timeout;

use super::handle::{Push, QUEUE_TIMEOUT, Service};
use super::queue::{ListPushes, ListedPush, PushQueue, PushSelection, RetryPushes, WithdrawPushes};
use super::state::PushState;

impl Push {
    /// Lists pushes that wait, those with the lowest ids.
    ///
    /// # Errors
    /// 108 for a service that there is not; a queue does not answer.
    pub async fn list(
        &self,
        service: Option<&str>,
        message: ListPushes,
    ) -> Result<Vec<ListedPush>, ApiError> {
        let mut listed = Vec::new();
        for service in self.named(service)? {
            let of_service = ask(service, message.clone()).await?;
            listed.extend(of_service.into_iter().flatten());
        }
        listed.sort_by_key(|push| push.id);
        listed.truncate(message.limit);
        Ok(listed)
    }

    /// Gives up pushes that wait, for good; returns how many. What is being sent is not tried
    /// again.
    ///
    /// # Errors
    /// Those of [`Push::list`]; the outbox cannot be written, and they may be sent after the next
    /// start.
    pub async fn withdraw(
        &self,
        service: Option<&str>,
        selection: &PushSelection,
    ) -> Result<usize, ApiError> {
        let (mut num_waiting, mut ids) = (0, Vec::new());
        for service in self.named(service)? {
            let withdrawn = ask(service, WithdrawPushes(selection.clone())).await?;
            let withdrawn = withdrawn.unwrap_or_default();
            num_waiting += withdrawn.num_waiting;
            ids.extend(withdrawn.ids);
        }
        // The queues do so, too, but nobody hears when.
        self.outbox().forget_pushes(&ids).await.map_err(|error| {
            tracing::error!(%error, "withdrawn pushes may be sent after the next start");
            let message =
                "the pushes are withdrawn, but may be sent after the next start: ask again";
            ApiError::unexpected(message).with_status(503)
        })?;
        Ok(num_waiting)
    }

    /// Has everything that waits for another attempt tried now; returns the states of the queues.
    ///
    /// # Errors
    /// Those of [`Push::list`].
    pub async fn retry(&self, service: Option<&str>) -> Result<Vec<PushState>, ApiError> {
        let mut states = Vec::new();
        for service in self.named(service)? {
            states.extend(ask(service, RetryPushes).await?);
        }
        states.sort_by_key(|state| state.service);
        Ok(states)
    }

    /// Returns the service with a name, or all.
    fn named(&self, name: Option<&str>) -> Result<Vec<&Service>, ApiError> {
        let services: Vec<&Service> = self.services().collect();
        let Some(name) = name else {
            return Ok(services);
        };
        let mut names: Vec<&str> = services.iter().map(|it| it.sender.name()).collect();
        names.sort_unstable();
        let message = match names.is_empty() {
            true => "no push service is configured".to_owned(),
            false => format!("no such push service; there are: {}", names.join(", ")),
        };
        let its = services.into_iter().filter(|it| it.sender.name() == name);
        let its: Vec<&Service> = its.collect();
        if its.is_empty() {
            return Err(ApiError::invalid_argument(message, &["service"]));
        }
        Ok(its)
    }
}

async fn ask<M>(service: &Service, message: M) -> Result<M::Result, ApiError>
where
    M: Message + Send + 'static,
    M::Result: Send,
    PushQueue: Handler<M>,
    <PushQueue as actix::Actor>::Context: ToEnvelope<PushQueue, M>,
{
    let answered = timeout(QUEUE_TIMEOUT, service.queue.send(message)).await;
    match answered {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(ApiError::overloaded("push")),
    }
}
