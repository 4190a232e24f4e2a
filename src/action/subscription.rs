//! `subscription:save`, `subscription:fetch`, `subscription:fetch_all`, `subscription:delete`

use serde_json::{Value as Json, json};
use skytrail_actors::device::messages::{DeleteSubscriptions, SaveSubscriptions};
use skytrail_actors::device::no_subscription;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{Database, DeviceId};
use skytrail_schema::query::Scope;
use skytrail_schema::subscription::{Subscription, SubscriptionKey};

use super::{Call, Outcome, Reply, request};

pub(super) async fn save(call: Call) -> Outcome {
    let sent = request::list(&call.body, "subscriptions")?;
    let sent = sent.filter(|sent| !sent.is_empty());
    let parse = |wire| Subscription::from_wire(wire, Database::Public);
    let parsed = sent.into_iter().flatten().map(parse);
    let parsed: Vec<Subscription> = parsed.collect::<Result<_, _>>()?;
    let limits = &call.services.settings.limits;
    parsed
        .iter()
        .try_for_each(|it| limits.check_subscription(it))?;
    if parsed.is_empty() {
        let message = "empty subscriptions";
        return Err(ApiError::invalid_argument(message, &["subscriptions"]));
    }
    let device = device(&call)?;
    let database = database(&call.scope)?;
    let place = |mut subscription: Subscription| {
        subscription.key.database.clone_from(&database);
        subscription
    };
    let subscriptions: Vec<Subscription> = parsed.into_iter().map(place).collect();
    let command = SaveSubscriptions {
        context: call.context,
        device: device.clone(),
        subscriptions: subscriptions.clone(),
    };
    let saved = call.services.devices.save_subscriptions(command).await?;
    let saved = subscriptions.iter().zip(saved);
    let item = |(subscription, saved): (&Subscription, Result<(), ApiError>)| match saved {
        Ok(()) => subscription.to_wire(&device),
        Err(error) => error.to_item(Some(&subscription.key.id)),
    };
    Reply::new(&saved.map(item).collect::<Vec<Json>>())
}

pub(super) async fn fetch(call: Call) -> Outcome {
    let (device, keys) = named(&call)?;
    let caller = &call.context.caller;
    let item = |key: &SubscriptionKey| {
        let devices = &call.services.devices;
        let found = devices.find_subscription(caller, &device, key);
        found.map_or_else(
            || no_subscription(&key.id).to_item(Some(&key.id)),
            |subscription| subscription.to_wire(&device),
        )
    };
    Reply::new(&keys.iter().map(item).collect::<Vec<Json>>())
}

pub(super) async fn fetch_all(call: Call) -> Outcome {
    let device = device(&call)?;
    let database = database(&call.scope)?;
    let caller = &call.context.caller;
    let devices = &call.services.devices;
    let listed = devices.list_subscriptions(caller, &device, &database);
    let listed = listed
        .iter()
        .map(|subscription| subscription.to_wire(&device));
    Reply::new(&listed.collect::<Vec<Json>>())
}

pub(super) async fn delete(call: Call) -> Outcome {
    let (device, keys) = named(&call)?;
    let command = DeleteSubscriptions {
        context: call.context,
        device,
        keys: keys.clone(),
    };
    let deleted = call.services.devices.delete_subscriptions(command).await?;
    let item = |(key, deleted): (&SubscriptionKey, Result<(), ApiError>)| match deleted {
        Ok(()) => json!({"id": key.id}),
        Err(error) => error.to_item(Some(&key.id)),
    };
    Reply::new(&keys.iter().zip(deleted).map(item).collect::<Vec<Json>>())
}

/// Reads the device and the subscriptions that a request names.
fn named(call: &Call) -> Result<(DeviceId, Vec<SubscriptionKey>), ApiError> {
    let ids = match request::texts(&call.body, "subscription_ids")? {
        Some(ids) => ids,
        // The name that v1's iOS SDK uses.
        None => request::texts(&call.body, "ids")?.unwrap_or_default(),
    };
    let device = device(call)?;
    let database = database(&call.scope)?;
    let key = |id| SubscriptionKey {
        database: database.clone(),
        id,
    };
    Ok((device, ids.into_iter().map(key).collect()))
}

fn device(call: &Call) -> Result<DeviceId, ApiError> {
    let id = request::text(&call.body, "device_id")?.filter(|id| !id.is_empty());
    let empty = || ApiError::invalid_argument("empty device_id", &["device_id"]);
    id.map(DeviceId::from).ok_or_else(empty)
}

fn database(scope: &Scope) -> Result<Database, ApiError> {
    match scope {
        Scope::Public => Ok(Database::Public),
        Scope::Private(user) => Ok(Database::Private(user.clone())),
        Scope::Union => {
            let message = "subscription on union database is not implemented";
            Err(ApiError::new(Code::NotImplemented, message))
        }
    }
}
