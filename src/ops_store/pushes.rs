//! The tables of pending pushes. What many devices get is kept once.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::stream::TryStreamExt as _;
use serde_json::{Value as Json, json};
use skytrail_actors::push::{Payload, Waiting};
use skytrail_schema::event::DeviceKind;
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::time::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::rows::checksum;

/// A payload is known by the hash of its options and its content, and goes with the last push that
/// has it.
const TABLES: [&str; 5] = [
    "CREATE TABLE IF NOT EXISTS push_payload (hash BLOB PRIMARY KEY, options TEXT NOT NULL, \
     content BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS waiting_push (id TEXT PRIMARY KEY, since INTEGER NOT NULL, \
     device TEXT NOT NULL, kind TEXT NOT NULL, payload BLOB NOT NULL, checksum INTEGER NOT NULL, \
     user TEXT, subscription TEXT) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS waiting_push_payload ON waiting_push (payload)",
    "CREATE TRIGGER IF NOT EXISTS waiting_push_deleted AFTER DELETE ON waiting_push BEGIN \
     DELETE FROM push_payload WHERE hash = old.payload \
     AND NOT EXISTS (SELECT 1 FROM waiting_push WHERE payload = old.payload); END",
    "CREATE TRIGGER IF NOT EXISTS waiting_push_changed AFTER UPDATE OF payload ON waiting_push \
     WHEN old.payload <> new.payload BEGIN \
     DELETE FROM push_payload WHERE hash = old.payload \
     AND NOT EXISTS (SELECT 1 FROM waiting_push WHERE payload = old.payload); END",
];

/// What removes the tables, also those of earlier builds, from a copy of the file.
pub(super) const REMOVALS: [&str; 3] = [
    "DROP TABLE IF EXISTS waiting_push",
    "DROP TABLE IF EXISTS push_payload",
    "DROP TABLE IF EXISTS push",
];

/// How many rows of an earlier build are moved at a time.
const BATCH_SIZE: i64 = 256;

/// Creates the tables, and moves what an earlier build has left into them.
pub(super) async fn prepare(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for table in TABLES {
        sqlx::query(table).execute(&mut *connection).await?;
    }
    if !has_column(connection, "id").await? {
        return Ok(());
    }
    // The first build knew no users.
    if !has_column(connection, "user").await? {
        let added = sqlx::query("ALTER TABLE push ADD COLUMN user TEXT");
        added.execute(&mut *connection).await?;
    }
    let mut tx = connection.begin().await?;
    loop {
        let rows = sqlx::query(
            "SELECT id, since, device, kind, user, options, content, checksum FROM push \
             ORDER BY id LIMIT ?",
        );
        let rows = rows.bind(BATCH_SIZE).fetch_all(&mut *tx).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let id: String = row.get(0);
            if let Some(push) = read_former(&row) {
                insert(&mut tx, &[push]).await?;
            }
            let moved = sqlx::query("DELETE FROM push WHERE id = ?");
            moved.bind(&id).execute(&mut *tx).await?;
        }
    }
    sqlx::query("DROP TABLE push").execute(&mut *tx).await?;
    tx.commit().await?;
    tracing::info!("ops.sqlite is upgraded: what many devices get is kept once");
    Ok(())
}

/// Whether the table of earlier builds is there and has a column.
async fn has_column(
    connection: &mut SqliteConnection,
    column: &'static str,
) -> Result<bool, sqlx::Error> {
    let found = sqlx::query("SELECT 1 FROM pragma_table_info('push') WHERE name = ?");
    let found = found.bind(column).fetch_optional(connection).await?;
    Ok(found.is_some())
}

pub(super) async fn add(
    connection: &mut SqliteConnection,
    pushes: &[Waiting],
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    insert(&mut tx, pushes).await?;
    tx.commit().await
}

async fn insert(tx: &mut SqliteConnection, pushes: &[Waiting]) -> Result<(), sqlx::Error> {
    for alike in pushes.chunk_by(|one, next| Arc::ptr_eq(&one.payload, &next.payload)) {
        let Some(first) = alike.first() else { continue };
        let options = json!(first.payload.options).to_string();
        let hash = hash(&options, &first.payload.content);
        sqlx::query("INSERT OR IGNORE INTO push_payload (hash, options, content) VALUES (?, ?, ?)")
            .bind(hash.as_slice())
            .bind(&options)
            .bind(&first.payload.content)
            .execute(&mut *tx)
            .await?;
        for push in alike {
            let id = push.id.to_string();
            // A replacement would delete the former row without its trigger.
            let row = sqlx::query(
                "INSERT INTO waiting_push \
                 (id, since, device, kind, payload, checksum, user, subscription) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET \
                 since = excluded.since, device = excluded.device, kind = excluded.kind, \
                 payload = excluded.payload, checksum = excluded.checksum, user = excluded.user, \
                 subscription = excluded.subscription",
            );
            let row = row.bind(&id).bind(push.since.micros());
            let row = row.bind(push.device.as_str()).bind(push.kind.name());
            row.bind(hash.as_slice())
                .bind(sum(&id, &hash))
                .bind(push.user.as_ref().map(UserId::as_str))
                .bind(push.subscription.as_deref())
                .execute(&mut *tx)
                .await?;
        }
    }
    Ok(())
}

pub(super) async fn remove(
    connection: &mut SqliteConnection,
    ids: &[String],
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    for id in ids {
        let row = sqlx::query("DELETE FROM waiting_push WHERE id = ?");
        row.bind(id).execute(&mut *tx).await?;
    }
    tx.commit().await
}

pub(super) async fn list(connection: &mut SqliteConnection) -> Result<Vec<Waiting>, sqlx::Error> {
    let payloads = load_payloads(connection).await?;
    let mut pushes = Vec::new();
    let mut damaged: Vec<String> = Vec::new();
    let rows = sqlx::query(
        "SELECT id, since, device, kind, user, payload, checksum, subscription FROM waiting_push \
         ORDER BY since, id",
    );
    let mut rows = rows.fetch(&mut *connection);
    while let Some(row) = rows.try_next().await? {
        match read(&row, &payloads) {
            Some(push) => pushes.push(push),
            None => damaged.push(row.get(0)),
        }
    }
    drop(rows);
    if !damaged.is_empty() {
        let num_lost = damaged.len();
        tracing::error!(num_lost, "waiting pushes are damaged and are not sent");
        remove(connection, &damaged).await?;
    }
    Ok(pushes)
}

type Hash = [u8; 32];

/// Loads the payloads that are whole.
async fn load_payloads(
    connection: &mut SqliteConnection,
) -> Result<HashMap<Hash, Arc<Payload>>, sqlx::Error> {
    let mut payloads = HashMap::new();
    let rows = sqlx::query("SELECT options, content FROM push_payload");
    let mut rows = rows.fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let (options, content): (String, Vec<u8>) = (row.get(0), row.get(1));
        let hash = hash(&options, &content);
        if let Ok(options) = serde_json::from_str(&options) {
            payloads.insert(hash, Arc::new(Payload { content, options }));
        }
    }
    Ok(payloads)
}

fn read(row: &SqliteRow, payloads: &HashMap<Hash, Arc<Payload>>) -> Option<Waiting> {
    let id: String = row.get(0);
    let hash = row.get::<Vec<u8>, _>(5).try_into().ok()?;
    if row.get::<i64, _>(6) != sum(&id, &hash) {
        return None;
    }
    let payload = Arc::clone(payloads.get(&hash)?);
    with_head(row, payload, row.get(7))
}

/// Reads a row of an earlier build.
fn read_former(row: &SqliteRow) -> Option<Waiting> {
    let (id, options, content): (String, String, Vec<u8>) = (row.get(0), row.get(5), row.get(6));
    let text: Json = String::from_utf8_lossy(&content).into();
    if row.get::<i64, _>(7) != checksum(&id, &json!([options, text]).to_string()) {
        return None;
    }
    let options = serde_json::from_str(&options).ok()?;
    with_head(row, Arc::new(Payload { content, options }), None)
}

/// Adds what the first columns say.
fn with_head(
    row: &SqliteRow,
    payload: Arc<Payload>,
    subscription: Option<String>,
) -> Option<Waiting> {
    Some(Waiting {
        id: Uuid::parse_str(row.get(0)).ok()?,
        since: Timestamp::from_micros(row.get(1)),
        device: DeviceId::from(row.get::<String, _>(2)),
        kind: DeviceKind::parse(row.get(3))?,
        user: row.get::<Option<String>, _>(4).map(UserId::from),
        subscription,
        payload,
    })
}

fn hash(options: &str, content: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    // The length keeps the two apart.
    hasher.update(&(options.len() as u64).to_be_bytes());
    hasher.update(options.as_bytes()).update(content);
    *hasher.finalize().as_bytes()
}

fn sum(id: &str, hash: &Hash) -> i64 {
    checksum(id, &crate::hex::encode(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops_store::{OPS_STORE_FILE, OpsStore};
    use skytrail_actors::push::Outbox as _;
    use sqlx::ConnectOptions as _;
    use sqlx::sqlite::SqliteConnectOptions;
    use std::path::Path;

    fn push(number: u128, payload: &Arc<Payload>) -> Waiting {
        Waiting {
            id: Uuid::from_u128(number),
            device: "phone".into(),
            user: Some("ada".into()),
            kind: DeviceKind::Ios,
            subscription: Some("notes".to_owned()),
            payload: Arc::clone(payload),
            since: Timestamp::from_micros(5),
        }
    }

    fn payload(text: &str) -> Arc<Payload> {
        let options = vec![("apns-priority", "5".to_owned())];
        Arc::new(Payload::new(text.into(), options))
    }

    async fn open(path: &Path) -> OpsStore {
        let opened = OpsStore::open(path, Timestamp::from_micros(1 << 50)).await;
        opened.unwrap()
    }

    async fn raw(path: &Path) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(path);
        options.create_if_missing(true).connect().await.unwrap()
    }

    async fn num_payloads(path: &Path) -> i64 {
        let mut connection = raw(path).await;
        let row = sqlx::query("SELECT count(*) FROM push_payload");
        let num_payloads = row.fetch_one(&mut connection).await.unwrap().get(0);
        connection.close().await.unwrap();
        num_payloads
    }

    #[tokio::test]
    async fn what_several_devices_get_is_kept_once_and_goes_with_the_last_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OPS_STORE_FILE);
        let (one, same, other) = (payload("one"), payload("one"), payload("other"));
        let pushes = [
            push(1, &one),
            push(2, &one),
            push(3, &same),
            push(4, &other),
        ];
        let store = open(&path).await;
        store.keep_pushes(&pushes).await.unwrap();
        let listed = store.load_pushes().await.unwrap();
        assert_eq!(listed, pushes);
        let [first, _, third, _] = listed.as_slice() else {
            panic!("{listed:?}");
        };
        assert!(Arc::ptr_eq(&first.payload, &third.payload));
        // The others need it still.
        store.forget_pushes(&[pushes[0].id]).await.unwrap();
        store.keep_pushes(&[push(2, &other)]).await.unwrap();
        let left = [push(2, &other), push(3, &one), push(4, &other)];
        assert_eq!(store.load_pushes().await.unwrap(), left);
        store.close().await;
        assert_eq!(num_payloads(&path).await, 2);
        let store = open(&path).await;
        store.keep_pushes(&[push(3, &other)]).await.unwrap();
        store.close().await;
        assert_eq!(num_payloads(&path).await, 1);
        let store = open(&path).await;
        let ids = [2, 3, 4].map(Uuid::from_u128);
        store.forget_pushes(&ids).await.unwrap();
        store.close().await;
        assert_eq!(num_payloads(&path).await, 0);
    }

    #[tokio::test]
    async fn what_is_damaged_is_left_out_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OPS_STORE_FILE);
        let (one, other) = (payload("one"), payload("other"));
        let store = open(&path).await;
        let pushes = [push(1, &one), push(2, &other), push(3, &other)];
        store.keep_pushes(&pushes).await.unwrap();
        store.close().await;
        let mut connection = raw(&path).await;
        for damage in [
            "UPDATE push_payload SET content = 'two' WHERE content = CAST('one' AS BLOB)",
            "UPDATE waiting_push SET checksum = 0 WHERE id LIKE '%2'",
        ] {
            let damaged = sqlx::query(damage).execute(&mut connection).await.unwrap();
            assert_eq!(damaged.rows_affected(), 1, "{damage}");
        }
        connection.close().await.unwrap();
        let store = open(&path).await;
        assert_eq!(store.load_pushes().await.unwrap(), [push(3, &other)]);
        store.close().await;
        assert_eq!(num_payloads(&path).await, 1);
    }

    #[tokio::test]
    async fn what_earlier_builds_have_left_is_moved() {
        for has_users in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(OPS_STORE_FILE);
            let mut connection = raw(&path).await;
            let user = if has_users { ", user TEXT" } else { "" };
            let table = format!(
                "CREATE TABLE push (id TEXT PRIMARY KEY, since INTEGER NOT NULL, \
                 device TEXT NOT NULL, kind TEXT NOT NULL, options TEXT NOT NULL, \
                 content BLOB NOT NULL, checksum INTEGER NOT NULL{user}) WITHOUT ROWID"
            );
            let table = sqlx::query(sqlx::AssertSqlSafe(table));
            table.execute(&mut connection).await.unwrap();
            let num_pushes = BATCH_SIZE + 1;
            for number in 0..num_pushes {
                let id = Uuid::from_u128(number.unsigned_abs().into()).to_string();
                let options = json!([["apns-priority", "5"]]).to_string();
                let row = sqlx::query(
                    "INSERT INTO push (id, since, device, kind, options, content, checksum) \
                     VALUES (?, 5, 'phone', 'ios', ?, CAST('hello' AS BLOB), ?)",
                );
                let sum = checksum(&id, &json!([options, "hello"]).to_string());
                let row = row.bind(&id).bind(&options).bind(sum);
                row.execute(&mut connection).await.unwrap();
            }
            for change in [
                "UPDATE push SET user = 'ada'",
                "UPDATE push SET checksum = 0 WHERE id LIKE '%1'",
            ] {
                let changed = sqlx::query(change).execute(&mut connection).await;
                assert!(changed.is_ok() || !has_users);
            }
            connection.close().await.unwrap();
            let store = open(&path).await;
            let listed = store.load_pushes().await.unwrap();
            let expected = Waiting {
                user: has_users.then(|| "ada".into()),
                subscription: None,
                ..push(0, &payload("hello"))
            };
            assert_eq!(listed.first(), Some(&expected));
            // Every 16th of them is damaged.
            assert_eq!(listed.len(), 241);
            store.close().await;
            assert_eq!(num_payloads(&path).await, 1);
        }
    }
}
