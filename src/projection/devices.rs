//! Reads devices and their subscriptions.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::projection::conn::{Conn, Row};
use async_trait::async_trait;
use skytrail_actors::device::{DeviceStore, VersionedDevice};
use skytrail_actors::store::StoreError;
use skytrail_actors::subscription::SubscribedDevice;
use skytrail_schema::event::{DeviceKind, DeviceState};
use skytrail_schema::id::{Database, DeviceId, UserId};
use skytrail_schema::json::Members;
use skytrail_schema::subscription::{Subscription, SubscriptionKey};
use skytrail_schema::time::Timestamp;

use super::read::MAX_KEYS;
use super::sql::{Arg, Sql};
use super::store::SqlStore;

#[async_trait]
impl DeviceStore for SqlStore {
    async fn load_devices(
        &self,
        ids: &[DeviceId],
    ) -> Result<Vec<Option<VersionedDevice>>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let loaded = devices(&mut conn, ids).await;
        loaded.map_err(|error| self.failed(error))
    }

    async fn find_devices(&self, token: &str) -> Result<Vec<DeviceId>, StoreError> {
        let mut sql = Sql::new("SELECT id FROM _device WHERE token=");
        sql.bind(Arg::text(token)).push(" ORDER BY id");
        self.device_ids(sql).await
    }

    async fn list_devices_of(&self, users: &[UserId]) -> Result<Vec<DeviceId>, StoreError> {
        let mut found = Vec::new();
        for chunk in users.chunks(MAX_KEYS) {
            let mut sql = Sql::new("SELECT id FROM _device WHERE auth_id IN (");
            sql.separated(chunk, |sql, user| {
                sql.bind(Arg::text(user.as_str()));
            });
            sql.push(")");
            found.extend(self.device_ids(sql).await?);
        }
        Ok(found)
    }

    async fn list_unreachable(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<DeviceId>, StoreError> {
        let mut sql =
            Sql::new("SELECT id FROM _device WHERE token IS NULL AND last_registered_at<");
        sql.bind(Arg::Time(before)).push(" ORDER BY id LIMIT ");
        sql.bind(Arg::Int(limit.into()));
        self.device_ids(sql).await
    }

    async fn load_subscriptions(&self) -> Result<Vec<SubscribedDevice>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let loaded = subscribed(&mut conn).await;
        loaded.map_err(|error| self.failed(error))
    }
}

impl SqlStore {
    async fn device_ids(&self, sql: Sql) -> Result<Vec<DeviceId>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let rows = sql.fetch_all(&mut conn).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        let id = |row: &Row| Ok(DeviceId::from(&*row.text(0)?));
        let ids: Result<_, sqlx::Error> = rows.iter().map(id).collect();
        ids.map_err(|error| self.failed(error))
    }
}

async fn devices(
    conn: &mut Conn<'_>,
    ids: &[DeviceId],
) -> Result<Vec<Option<VersionedDevice>>, sqlx::Error> {
    let mut found: HashMap<String, VersionedDevice> = HashMap::new();
    for chunk in ids.chunks(MAX_KEYS) {
        let mut sql = Sql::new(
            "SELECT id, version, auth_id, type, token, topic, last_registered_at FROM _device \
             WHERE id",
        );
        sql.within(chunk, |id| id.as_str());
        for row in sql.fetch_all(conn).await? {
            let text =
                |index: usize| Ok::<_, sqlx::Error>(row.maybe_text(index)?.map(Cow::into_owned));
            let kind = DeviceKind::parse(&row.text(3)?);
            let state = DeviceState {
                user: text(2)?.map(UserId::from),
                kind: kind.ok_or_else(|| sqlx::Error::Decode("unknown type of device".into()))?,
                token: text(4)?,
                topic: text(5)?,
                registered_at: row.time(6)?,
            };
            found.insert(row.text(0)?.into_owned(), (row.unsigned(1)?, state));
        }
    }
    let ordered = ids.iter().map(|id| found.get(id.as_str()).cloned());
    Ok(ordered.collect())
}

/// Loads the devices that have or had subscriptions, with their current ones.
async fn subscribed(conn: &mut Conn<'_>) -> Result<Vec<SubscribedDevice>, sqlx::Error> {
    let sql = Sql::new(
        "SELECT d.id, d.auth_id, d.subscriptions_version, s.auth_id, s.id, s.type, \
         s.notification_info, s.query FROM _device AS d LEFT JOIN _subscription AS s \
         ON s.device_id = d.id WHERE d.subscriptions_version > 0 ORDER BY d.id, s.auth_id, s.id",
    );
    let mut devices: Vec<SubscribedDevice> = Vec::new();
    for row in sql.fetch_all(conn).await? {
        let id = DeviceId::from(&*row.text(0)?);
        if devices.last().is_none_or(|last| last.id != id) {
            let user = row.maybe_text(1)?;
            devices.push(SubscribedDevice {
                id,
                user: user.map(|user| UserId::from(&*user)),
                version: row.unsigned(2)?,
                subscriptions: Vec::new(),
            });
        }
        if let (Some(device), Some(subscription)) = (devices.last_mut(), subscription(&row)?) {
            device.subscriptions.push(subscription);
        }
    }
    Ok(devices)
}

fn subscription(row: &Row) -> Result<Option<Subscription>, sqlx::Error> {
    let Some(id) = row.maybe_text(4)? else {
        return Ok(None);
    };
    Ok(Some(Subscription {
        key: SubscriptionKey {
            database: Database::from_stored(&row.text(3)?),
            id: id.into_owned(),
        },
        kind: row.text(5)?.into_owned(),
        notification_info: row.maybe_json(6)?,
        query: row.json::<Members>(7)?.0,
    }))
}
