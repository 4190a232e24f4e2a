//! Saving and ending subscriptions.

use std::collections::BTreeSet;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{DeviceState, EventBody, SavedSubscription, Stream};
use skytrail_schema::id::DeviceId;
use skytrail_schema::subscription::{Subscription, SubscriptionKey};

use super::messages::{DeleteSubscriptions, SaveSubscriptions};
use super::{Devices, is_for, no_subscription};
use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::record::attempt::{Outcome, retry_on_conflict};
use crate::record::decide::Plan;

impl Devices {
    /// Saves those subscriptions that can be saved, in one commit; one result each, in request order.
    ///
    /// # Errors
    /// Overload.
    pub async fn save_subscriptions(
        &self,
        command: SaveSubscriptions,
    ) -> Result<Vec<Result<(), ApiError>>, ApiError> {
        let stream = Stream::Subscriptions(command.device.clone());
        retry_on_conflict(Some(&self.turn), |_| async {
            let read_position = self.read_position().await?;
            let device = self
                .load_accessible(&command.device, &command.context)
                .await?;
            let mut plan = Plan::default();
            let key = ConflictKey::stream(&Stream::Device(command.device.clone()));
            plan.reads.insert(key);
            let mut version = self.subscriptions.version(&command.device);
            let mut results = Vec::with_capacity(command.subscriptions.len());
            let mut names = self.subscriptions.keys(&command.device);
            for subscription in &command.subscriptions {
                let Some(device) = &device else {
                    results.push(Err(ApiError::unexpected("Specific device not found")));
                    continue;
                };
                let most = self.limits.subscriptions;
                let checked =
                    check(subscription).and_then(|()| make_room(&mut names, subscription, most));
                results.push(checked.map(|()| {
                    version += 1;
                    let saved = SavedSubscription {
                        subscriber: device.user.clone(),
                        subscription: subscription.clone(),
                    };
                    let body = EventBody::SubscriptionSaved(saved);
                    plan.push(stream.clone(), version, body);
                }));
            }
            self.commit_plan(plan, read_position, &command.context, results)
                .await
        })
        .await
    }

    /// Ends those subscriptions that exist, in one commit; one result each, in request order.
    ///
    /// # Errors
    /// Overload.
    pub async fn delete_subscriptions(
        &self,
        command: DeleteSubscriptions,
    ) -> Result<Vec<Result<(), ApiError>>, ApiError> {
        let stream = Stream::Subscriptions(command.device.clone());
        retry_on_conflict(Some(&self.turn), |_| async {
            let read_position = self.env.model.position();
            let mut plan = Plan::default();
            let key = ConflictKey::stream(&Stream::Device(command.device.clone()));
            plan.reads.insert(key);
            let caller = &command.context.caller;
            let mut version = self.subscriptions.version(&command.device);
            let mut results = Vec::with_capacity(command.keys.len());
            for (index, key) in command.keys.iter().enumerate() {
                let is_repeated = command.keys.iter().take(index).any(|before| before == key);
                let found = self.find_subscription(caller, &command.device, key);
                if is_repeated || found.is_none() {
                    results.push(Err(no_subscription(&key.id)));
                    continue;
                }
                version += 1;
                let body = EventBody::SubscriptionDeleted(key.clone());
                plan.push(stream.clone(), version, body);
                results.push(Ok(()));
            }
            self.commit_plan(plan, read_position, &command.context, results)
                .await
        })
        .await
    }

    /// Loads a device, if the caller can use it.
    async fn load_accessible(
        &self,
        id: &DeviceId,
        context: &RequestContext,
    ) -> Result<Option<DeviceState>, ApiError> {
        let loaded = self.load(id).await?.map(|(_, device)| device);
        Ok(loaded.filter(|device| is_for(&context.caller, device.user.as_ref())))
    }

    async fn commit_plan<T>(
        &self,
        plan: Plan,
        read_position: u64,
        context: &RequestContext,
        results: T,
    ) -> Result<Outcome<T>, ApiError> {
        if plan.events.is_empty() {
            return Ok(Outcome::Done(results));
        }
        let done = self.commit(plan, read_position, context).await?;
        Ok(done.map(|()| results))
    }
}

fn check(subscription: &Subscription) -> Result<(), ApiError> {
    if subscription.key.id.is_empty() {
        return Err(ApiError::unexpected("empty id"));
    }
    if subscription.kind.is_empty() {
        return Err(ApiError::unexpected("empty type"));
    }
    Ok(())
}

/// Adds a name, unless there are too many already. An existing subscription can always be changed.
fn make_room(
    names: &mut BTreeSet<SubscriptionKey>,
    subscription: &Subscription,
    most: usize,
) -> Result<(), ApiError> {
    let key = &subscription.key;
    if names.len() >= most && !names.contains(key) {
        let text = format!("a device has at most {most} subscriptions");
        let limit = serde_json::json!({"name": "MAX_DEVICE_SUBSCRIPTIONS", "max": most});
        let error = ApiError::invalid_argument(text, &["subscriptions"]);
        return Err(error.with_info("limit", limit));
    }
    names.insert(key.clone());
    Ok(())
}
