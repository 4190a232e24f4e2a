//! Applies events of devices and their subscriptions.

use crate::projection::conn::Conn;
use skytrail_schema::event::{DeviceState, Event, EventBody};
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::subscription::{Subscription, SubscriptionKey};

use super::ApplyError;
use crate::projection::sql::{Arg, Sql};

/// Applies an event of a device; `subscribed` is the version of its subscriptions for a row that is
/// created again.
pub(super) async fn change_device(
    conn: &mut Conn<'_>,
    id: &DeviceId,
    (event, subscribed): (&Event, Option<u64>),
) -> Result<(), ApplyError> {
    match &event.body {
        EventBody::DeviceRegistered(state) => {
            register(conn, id, event.version, state).await?;
            if let Some(version) = subscribed {
                let version = Arg::unsigned(version);
                set_subscriptions_version(conn, id, version).await?;
            }
            Ok(())
        }
        EventBody::DeviceUnregistered(_) => {
            let mut sql = Sql::new("UPDATE _device SET auth_id = NULL, version=");
            sql.bind(Arg::Int(event.version.into())).push(" WHERE id=");
            sql.bind(Arg::text(id.as_str()));
            must_change(sql, conn, "the device does not exist").await
        }
        EventBody::DeviceDeleted(_) => {
            let mut sql = Sql::new("DELETE FROM _subscription WHERE device_id=");
            sql.bind(Arg::text(id.as_str()));
            sql.execute(conn).await?;
            let mut sql = Sql::new("DELETE FROM _device WHERE id=");
            sql.bind(Arg::text(id.as_str()));
            must_change(sql, conn, "the device does not exist").await
        }
        _ => Err(ApplyError::fault("not an event of a device")),
    }
}

async fn register(
    conn: &mut Conn<'_>,
    id: &DeviceId,
    version: u32,
    state: &DeviceState,
) -> Result<(), ApplyError> {
    let user = state.user.as_ref().map(UserId::as_str);
    let sql = Sql::put(
        "_device",
        [("id", Arg::text(id.as_str()))],
        [
            ("version", Arg::Int(version.into())),
            ("auth_id", Arg::maybe(user)),
            ("type", Arg::text(state.kind.name())),
            ("token", Arg::maybe(state.token.as_deref())),
            ("topic", Arg::maybe(state.topic.as_deref())),
            ("last_registered_at", Arg::Time(state.registered_at)),
        ],
    );
    sql.execute(conn).await?;
    Ok(())
}

/// Applies an event of a device's subscriptions.
pub(super) async fn change_subscriptions(
    conn: &mut Conn<'_>,
    device: &DeviceId,
    event: &Event,
) -> Result<(), ApplyError> {
    set_subscriptions_version(conn, device, Arg::Int(event.version.into())).await?;
    match &event.body {
        EventBody::SubscriptionSaved(saved) => save(conn, device, &saved.subscription).await,
        EventBody::SubscriptionDeleted(key) => {
            let mut sql = Sql::new("DELETE FROM _subscription WHERE device_id=");
            sql.bind(Arg::text(device.as_str()));
            let SubscriptionKey { database, id } = key;
            sql.push(" AND auth_id=")
                .bind(Arg::text(database.as_stored()));
            sql.push(" AND id=").bind(Arg::text(id.as_str()));
            must_change(sql, conn, "the subscription does not exist").await
        }
        _ => Err(ApplyError::fault("not an event of subscriptions")),
    }
}

async fn set_subscriptions_version(
    conn: &mut Conn<'_>,
    device: &DeviceId,
    version: Arg,
) -> Result<(), ApplyError> {
    let mut sql = Sql::new("UPDATE _device SET subscriptions_version=");
    sql.bind(version).push(" WHERE id=");
    sql.bind(Arg::text(device.as_str()));
    must_change(sql, conn, "the device does not exist").await
}

async fn save(
    conn: &mut Conn<'_>,
    device: &DeviceId,
    subscription: &Subscription,
) -> Result<(), ApplyError> {
    let fault = |error: serde_json::Error| ApplyError::fault(error.to_string());
    let info = subscription.notification_info.as_ref();
    let info = info.map(serde_json::to_string).transpose().map_err(fault)?;
    let query = serde_json::to_string(&subscription.query).map_err(fault)?;
    let SubscriptionKey { database, id } = &subscription.key;
    let sql = Sql::put(
        "_subscription",
        [
            ("device_id", Arg::text(device.as_str())),
            ("auth_id", Arg::text(database.as_stored())),
            ("id", Arg::text(id.as_str())),
        ],
        [
            ("type", Arg::text(subscription.kind.as_str())),
            ("notification_info", info.map_or(Arg::Null, Arg::Json)),
            ("query", Arg::Json(query)),
        ],
    );
    sql.execute(conn).await?;
    Ok(())
}

async fn must_change(
    sql: Sql,
    conn: &mut Conn<'_>,
    otherwise: &'static str,
) -> Result<(), ApplyError> {
    match sql.execute(conn).await? {
        0 => Err(ApplyError::fault(otherwise)),
        _ => Ok(()),
    }
}
