//! Reading devices and what they subscribe to.

use std::collections::HashMap;

use async_trait::async_trait;
use skytrail_actors::device::{DeviceStore, VersionedDevice};
use skytrail_actors::store::StoreError;
use skytrail_actors::subscription::SubscribedDevice;
use skytrail_schema::event::{DeviceKind, DeviceState};
use skytrail_schema::id::{Database, DeviceId, UserId};
use skytrail_schema::subscription::{Subscription, SubscriptionKey};
use skytrail_schema::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::read::{MAX_KEYS, unsigned};
use super::sql::{Arg, Sql};
use super::store::SqlStore;

#[async_trait]
impl DeviceStore for SqlStore {
    async fn load_devices(
        &self,
        ids: &[DeviceId],
    ) -> Result<Vec<Option<VersionedDevice>>, StoreError> {
        let mut reader = self.reader().await?;
        let conn = reader.conn().map_err(|error| self.failed(error))?;
        let loaded = devices(conn, ids).await;
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
            for (index, user) in chunk.iter().enumerate() {
                sql.push(if index == 0 { "" } else { "," });
                sql.bind(Arg::text(user.as_str()));
            }
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
        sql.bind(Arg::Int(before.micros()))
            .push(" ORDER BY id LIMIT ");
        sql.bind(Arg::Int(limit.into()));
        self.device_ids(sql).await
    }

    async fn load_subscriptions(&self) -> Result<Vec<SubscribedDevice>, StoreError> {
        let mut reader = self.reader().await?;
        let conn = reader.conn().map_err(|error| self.failed(error))?;
        let loaded = subscribed(conn).await;
        loaded.map_err(|error| self.failed(error))
    }
}

impl SqlStore {
    async fn device_ids(&self, sql: Sql) -> Result<Vec<DeviceId>, StoreError> {
        let mut reader = self.reader().await?;
        let conn = reader.conn().map_err(|error| self.failed(error))?;
        let rows = sql.fetch_all(conn).await;
        let rows = rows.map_err(|error| self.failed(error))?;
        let id = |row: &SqliteRow| Ok(DeviceId::from(row.try_get::<&str, _>(0)?));
        let ids: Result<_, sqlx::Error> = rows.iter().map(id).collect();
        ids.map_err(|error| self.failed(error))
    }
}

async fn devices(
    conn: &mut SqliteConnection,
    ids: &[DeviceId],
) -> Result<Vec<Option<VersionedDevice>>, sqlx::Error> {
    let mut found: HashMap<String, VersionedDevice> = HashMap::new();
    for chunk in ids.chunks(MAX_KEYS) {
        let mut sql = Sql::new(
            "SELECT id, version, auth_id, type, token, topic, last_registered_at FROM _device \
             WHERE id IN (",
        );
        sql.holes(chunk.len()).push(")");
        let args = chunk.iter().map(|id| Arg::text(id.as_str())).collect();
        for row in sql.into_text().fetch_all(conn, args).await? {
            let text = |index: usize| row.try_get_unchecked::<Option<String>, _>(index);
            let kind = DeviceKind::parse(row.try_get(3)?);
            let state = DeviceState {
                user: text(2)?.map(UserId::from),
                kind: kind.ok_or_else(|| sqlx::Error::Decode("unknown type of device".into()))?,
                token: text(4)?,
                topic: text(5)?,
                registered_at: Timestamp::from_micros(row.try_get(6)?),
            };
            found.insert(row.try_get(0)?, (unsigned(&row, 1)?, state));
        }
    }
    let known = ids.iter().map(|id| found.get(id.as_str()).cloned());
    Ok(known.collect())
}

/// Loads the devices that subscribe or did, with what they subscribe to.
async fn subscribed(conn: &mut SqliteConnection) -> Result<Vec<SubscribedDevice>, sqlx::Error> {
    let sql = Sql::new(
        "SELECT d.id, d.auth_id, d.subscriptions_version, s.auth_id, s.id, s.type, \
         s.notification_info, s.query FROM _device AS d LEFT JOIN _subscription AS s \
         ON s.device_id = d.id WHERE d.subscriptions_version > 0 ORDER BY d.id, s.auth_id, s.id",
    );
    let mut devices: Vec<SubscribedDevice> = Vec::new();
    for row in sql.fetch_all(conn).await? {
        let id = DeviceId::from(row.try_get::<&str, _>(0)?);
        if devices.last().is_none_or(|last| last.id != id) {
            let user: Option<String> = row.try_get_unchecked(1)?;
            devices.push(SubscribedDevice {
                id,
                user: user.map(UserId::from),
                version: unsigned(&row, 2)?,
                subscriptions: Vec::new(),
            });
        }
        if let (Some(device), Some(subscription)) = (devices.last_mut(), subscription(&row)?) {
            device.subscriptions.push(subscription);
        }
    }
    Ok(devices)
}

fn subscription(row: &SqliteRow) -> Result<Option<Subscription>, sqlx::Error> {
    let decode = |error: serde_json::Error| sqlx::Error::Decode(error.into());
    let Some(id) = row.try_get_unchecked::<Option<String>, _>(4)? else {
        return Ok(None);
    };
    let info: Option<String> = row.try_get_unchecked(6)?;
    let info = info.as_deref().map(serde_json::from_str).transpose();
    Ok(Some(Subscription {
        key: SubscriptionKey {
            database: Database::from_stored(row.try_get(3)?),
            id,
        },
        kind: row.try_get(5)?,
        notification_info: info.map_err(decode)?,
        query: serde_json::from_str(row.try_get(7)?).map_err(decode)?,
    }))
}
