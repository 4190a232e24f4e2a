//! Saving and ending subscriptions.

use std::collections::BTreeSet;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{DeviceState, EventBody, SavedSubscription, Stream};
use skytrail_schema::id::DeviceId;
use skytrail_schema::subscription::{Subscription, SubscriptionKey};

use super::messages::{DeleteSubscriptions, SaveSubscriptions};
use super::service::{DeviceService as _, no_subscription};
use super::{Devices, is_for};
use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::record::attempt::{Outcome, retry_on_conflict};
use crate::record::decide::Plan;

/// Saves what can be saved, in one commit.
pub(super) async fn save(
    devices: &Devices,
    command: SaveSubscriptions,
) -> Result<Vec<Result<(), ApiError>>, ApiError> {
    let stream = Stream::Subscriptions(command.device.clone());
    retry_on_conflict(Some(&devices.turn), |_| async {
        let read_position = devices.read_position().await?;
        let device = load_accessible(devices, &command.device, &command.context).await?;
        let mut plan = Plan::default();
        let key = ConflictKey::stream(&Stream::Device(command.device.clone()));
        plan.reads.insert(key);
        let mut version = devices.subscriptions.version(&command.device);
        let mut results = Vec::with_capacity(command.subscriptions.len());
        let mut names = devices.subscriptions.keys(&command.device);
        for subscription in &command.subscriptions {
            let Some(device) = &device else {
                results.push(Err(ApiError::unexpected("Specific device not found")));
                continue;
            };
            let most = devices.limits.subscriptions;
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
        commit_plan(devices, plan, read_position, &command.context, results).await
    })
    .await
}

/// Loads a device, if the caller can use it.
async fn load_accessible(
    devices: &Devices,
    id: &DeviceId,
    context: &RequestContext,
) -> Result<Option<DeviceState>, ApiError> {
    let loaded = devices.load(id).await?.map(|(_, device)| device);
    Ok(loaded.filter(|device| is_for(&context.caller, device.user.as_ref())))
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

/// Ends those subscriptions that exist, in one commit.
pub(super) async fn delete(
    devices: &Devices,
    command: DeleteSubscriptions,
) -> Result<Vec<Result<(), ApiError>>, ApiError> {
    let stream = Stream::Subscriptions(command.device.clone());
    retry_on_conflict(Some(&devices.turn), |_| async {
        let read_position = devices.env.model.position();
        let mut plan = Plan::default();
        let key = ConflictKey::stream(&Stream::Device(command.device.clone()));
        plan.reads.insert(key);
        let caller = &command.context.caller;
        let mut version = devices.subscriptions.version(&command.device);
        let mut results = Vec::with_capacity(command.keys.len());
        for (index, key) in command.keys.iter().enumerate() {
            let is_repeated = command.keys.iter().take(index).any(|before| before == key);
            let found = devices.find_subscription(caller, &command.device, key);
            if is_repeated || found.is_none() {
                results.push(Err(no_subscription(&key.id)));
                continue;
            }
            version += 1;
            let body = EventBody::SubscriptionDeleted(key.clone());
            plan.push(stream.clone(), version, body);
            results.push(Ok(()));
        }
        commit_plan(devices, plan, read_position, &command.context, results).await
    })
    .await
}

async fn commit_plan<T>(
    devices: &Devices,
    plan: Plan,
    read_position: u64,
    context: &RequestContext,
    results: T,
) -> Result<Outcome<T>, ApiError> {
    if plan.events.is_empty() {
        return Ok(Outcome::Done(results));
    }
    Ok(match devices.commit(plan, read_position, context).await? {
        Outcome::Done(()) => Outcome::Done(results),
        Outcome::Conflict => Outcome::Conflict,
    })
}
