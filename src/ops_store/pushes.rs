//! The table of pending pushes.

use serde_json::{Value as Json, json};
use skytrail_actors::push::{Payload, Waiting};
use skytrail_schema::event::DeviceKind;
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::time::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::rows::checksum;

pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS push (id TEXT PRIMARY KEY, \
     since INTEGER NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL, options TEXT NOT NULL, \
     content BLOB NOT NULL, checksum INTEGER NOT NULL, user TEXT) WITHOUT ROWID";

/// Adds what the first form of the table lacked. Older rows belong to no user.
pub(super) async fn prepare(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let column = sqlx::query("SELECT 1 FROM pragma_table_info('push') WHERE name = 'user'");
    if column.fetch_optional(&mut *connection).await?.is_none() {
        sqlx::query("ALTER TABLE push ADD COLUMN user TEXT")
            .execute(connection)
            .await?;
        tracing::info!("ops.sqlite is upgraded: waiting pushes have users");
    }
    Ok(())
}

pub(super) async fn add(
    connection: &mut SqliteConnection,
    pushes: &[Waiting],
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    for push in pushes {
        let id = push.id.to_string();
        let options = json!(push.payload.options).to_string();
        let row = sqlx::query(
            "INSERT OR REPLACE INTO push (id, since, device, kind, options, content, checksum, user) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        );
        let row = row.bind(&id).bind(push.since.micros());
        let row = row.bind(push.device.as_str()).bind(push.kind.name());
        let row = row.bind(&options).bind(&push.payload.content);
        row.bind(sum(&id, &options, &push.payload.content))
            .bind(push.user.as_ref().map(UserId::as_str))
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

pub(super) async fn remove(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    for id in ids {
        let row = sqlx::query("DELETE FROM push WHERE id = ?");
        row.bind(id.to_string()).execute(&mut *tx).await?;
    }
    tx.commit().await
}

pub(super) async fn list(connection: &mut SqliteConnection) -> Result<Vec<Waiting>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id, since, device, kind, options, content, checksum, user FROM push \
         ORDER BY since, id",
    );
    let rows = rows.fetch_all(&mut *connection).await?;
    let num_rows = rows.len();
    let pushes: Vec<Waiting> = rows.iter().filter_map(read).collect();
    if pushes.len() < num_rows {
        let num_lost = num_rows - pushes.len();
        tracing::error!(num_lost, "waiting pushes are damaged and are not sent");
        let mut tx = connection.begin().await?;
        for row in rows.iter().filter(|row| read(row).is_none()) {
            let damaged = sqlx::query("DELETE FROM push WHERE id = ?");
            damaged
                .bind(row.get::<String, _>(0))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
    }
    Ok(pushes)
}

fn read(row: &SqliteRow) -> Option<Waiting> {
    let (id, options, content): (String, String, Vec<u8>) = (row.get(0), row.get(4), row.get(5));
    if row.get::<i64, _>(6) != sum(&id, &options, &content) {
        return None;
    }
    Some(Waiting {
        id: Uuid::parse_str(&id).ok()?,
        device: DeviceId::from(row.get::<String, _>(2)),
        user: row.get::<Option<String>, _>(7).map(UserId::from),
        kind: DeviceKind::parse(&row.get::<String, _>(3))?,
        payload: Payload {
            content,
            options: serde_json::from_str(&options).ok()?,
        },
        since: Timestamp::from_micros(row.get(1)),
    })
}

fn sum(id: &str, options: &str, content: &[u8]) -> i64 {
    let content: Json = String::from_utf8_lossy(content).into();
    checksum(id, &json!([options, content]).to_string())
}
