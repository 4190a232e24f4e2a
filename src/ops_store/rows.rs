//! The tables of the ops store.

use serde::Serialize;
use skytrail_actors::delivery::consumers::{
    ConsumerChange, DeadLetterId, ListedDeadLetter, StoredConsumers,
};
use skytrail_schema::time::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};

/// The format that this program writes.
pub(super) const FORMAT: i64 = 1;

const TABLES: [&str; 5] = [
    "CREATE TABLE IF NOT EXISTS place (consumer TEXT PRIMARY KEY, position INTEGER NOT NULL, \
     checksum INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS consumer (name TEXT PRIMARY KEY, standing TEXT NOT NULL, \
     checksum INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS dead_letter (consumer TEXT NOT NULL, position INTEGER NOT NULL, \
     hook TEXT NOT NULL, letter TEXT NOT NULL, PRIMARY KEY (consumer, position, hook)) \
     WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS loss (at INTEGER NOT NULL)",
    super::refusals::TABLE,
];

/// Fails when the file is damaged.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let row = sqlx::query("PRAGMA quick_check(1)");
    let row = row.fetch_one(connection).await?;
    let said: String = row.get(0);
    if said == "ok" {
        return Ok(());
    }
    Err(sqlx::Error::Decode(said.into()))
}

/// Creates the missing tables in a file of format `found`, which is 0 for an empty file.
pub(super) async fn prepare(
    connection: &mut SqliteConnection,
    found: i64,
) -> Result<(), sqlx::Error> {
    for table in TABLES {
        sqlx::query(table).execute(&mut *connection).await?;
    }
    super::pushes::prepare(connection).await?;
    if found == 0 {
        sqlx::query("PRAGMA user_version = 1")
            .execute(connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn format(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let row = sqlx::query("PRAGMA user_version");
    Ok(row.fetch_one(connection).await?.get(0))
}

/// Records that positions were lost.
pub(super) async fn note_loss(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let noted = sqlx::query("INSERT INTO loss (at) VALUES (?)");
    noted.bind(now.micros()).execute(connection).await?;
    Ok(())
}

/// Loads all consumers; losses before `since` are ignored.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    since: i64,
) -> Result<StoredConsumers, sqlx::Error> {
    let losses = sqlx::query("SELECT count(*) FROM loss WHERE at >= ?");
    let losses: i64 = losses.bind(since).fetch_one(&mut *connection).await?.get(0);
    let mut kept = StoredConsumers {
        is_lost: losses > 0,
        ..StoredConsumers::default()
    };
    let rows = sqlx::query("SELECT name, standing, checksum FROM consumer ORDER BY name");
    for row in rows.fetch_all(connection).await? {
        let (name, text): (String, String) = (row.get(0), row.get(1));
        let is_whole = row.get::<i64, _>(2) == checksum(&name, &text);
        match serde_json::from_str(&text) {
            Ok(checkpoint) if is_whole => {
                kept.consumers.insert(name, checkpoint);
            }
            _ => {
                tracing::error!(consumer = name, "a consumer's checkpoint is not readable");
                kept.damaged.push(name);
            }
        }
    }
    Ok(kept)
}

pub(super) fn checksum(name: &str, text: &str) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(text.as_bytes());
    hasher.finalize().into()
}

/// Loads the position of a consumer that needs nothing else. Returns `None` when there is none, or
/// when it is damaged.
pub(super) async fn load_position(
    connection: &mut SqliteConnection,
    consumer: &str,
) -> Result<Option<u64>, sqlx::Error> {
    let found = sqlx::query("SELECT position, checksum FROM place WHERE consumer = ?");
    let Some(row) = found.bind(consumer).fetch_optional(connection).await? else {
        return Ok(None);
    };
    let position: i64 = row.get(0);
    let is_whole = row.get::<i64, _>(1) == checksum(consumer, &position.to_string());
    if !is_whole {
        tracing::error!(consumer, "a consumer's checkpoint is not readable");
    }
    Ok(u64::try_from(position).ok().filter(|_| is_whole))
}

pub(super) async fn save_position(
    connection: &mut SqliteConnection,
    consumer: &str,
    position: u64,
) -> Result<(), sqlx::Error> {
    let kept =
        sqlx::query("INSERT OR REPLACE INTO place (consumer, position, checksum) VALUES (?, ?, ?)");
    let position = signed(position);
    kept.bind(consumer)
        .bind(position)
        .bind(checksum(consumer, &position.to_string()))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn save(
    connection: &mut SqliteConnection,
    consumer: &str,
    change: &ConsumerChange,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let checkpoint = write(&change.checkpoint)?;
    let kept =
        sqlx::query("INSERT OR REPLACE INTO consumer (name, standing, checksum) VALUES (?, ?, ?)");
    kept.bind(consumer)
        .bind(&checkpoint)
        .bind(checksum(consumer, &checkpoint))
        .execute(&mut *transaction)
        .await?;
    for (position, hook) in &change.forgotten {
        let forgotten =
            sqlx::query("DELETE FROM dead_letter WHERE consumer = ? AND position = ? AND hook = ?");
        forgotten
            .bind(consumer)
            .bind(signed(*position))
            .bind(&**hook)
            .execute(&mut *transaction)
            .await?;
    }
    for letter in &change.dead {
        let buried = sqlx::query(
            "INSERT OR REPLACE INTO dead_letter (consumer, position, hook, letter) \
             VALUES (?, ?, ?, ?)",
        );
        buried
            .bind(consumer)
            .bind(signed(letter.position))
            .bind(&*letter.hook)
            .bind(write(letter)?)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

pub(super) async fn forget(
    connection: &mut SqliteConnection,
    consumer: &str,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    for forgotten in [
        "DELETE FROM consumer WHERE name = ?",
        "DELETE FROM dead_letter WHERE consumer = ?",
    ] {
        let forgotten = sqlx::query(forgotten).bind(consumer);
        forgotten.execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Deletes dead letters of events after `head`, and moves positions beyond `head` back to it.
pub(super) async fn cut(connection: &mut SqliteConnection, head: u64) -> Result<(), sqlx::Error> {
    let forgotten = sqlx::query("DELETE FROM dead_letter WHERE position > ?");
    forgotten
        .bind(signed(head))
        .execute(&mut *connection)
        .await?;
    let beyond = sqlx::query("SELECT consumer FROM place WHERE position > ?");
    let beyond = beyond
        .bind(signed(head))
        .fetch_all(&mut *connection)
        .await?;
    for row in beyond {
        let consumer: String = row.get(0);
        save_position(connection, &consumer, head).await?;
    }
    Ok(())
}

pub(super) async fn list_dead_letters(
    connection: &mut SqliteConnection,
    consumer: &str,
    after: Option<&DeadLetterId>,
    limit: usize,
) -> Result<Vec<ListedDeadLetter>, sqlx::Error> {
    let (position, hook) = match after {
        Some((position, hook)) => (signed(*position), &**hook),
        None => (-1, ""),
    };
    let rows = sqlx::query(
        "SELECT position, hook, letter FROM dead_letter WHERE consumer = ? AND (position, hook) > (?, ?) \
         ORDER BY position, hook LIMIT ?",
    );
    let rows = rows
        .bind(consumer)
        .bind(position)
        .bind(hook)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = rows.fetch_all(connection).await?;
    let listed: Vec<ListedDeadLetter> = rows.iter().map(read).collect::<Result<_, _>>()?;
    for ListedDeadLetter { id, letter } in &listed {
        if let Err(error) = letter {
            let (position, hook) = (id.0, &*id.1);
            tracing::error!(
                consumer,
                position,
                hook,
                error,
                "a dead letter is not readable"
            );
        }
    }
    Ok(listed)
}

/// Reads a dead letter. Its id is the row's key; damage is most likely in the content.
fn read(row: &SqliteRow) -> Result<ListedDeadLetter, sqlx::Error> {
    let (position, hook): (i64, &str) = (row.try_get(0)?, row.try_get(1)?);
    let text: Result<&str, _> = row.try_get(2);
    let letter = text.map_err(|error| error.to_string()).and_then(|text| {
        let read = serde_json::from_str(text);
        read.map_err(|error| error.to_string())
    });
    Ok(ListedDeadLetter {
        id: (u64::try_from(position).unwrap_or_default(), hook.into()),
        letter,
    })
}

pub(super) async fn count_dead_letters(
    connection: &mut SqliteConnection,
    consumer: &str,
) -> Result<u64, sqlx::Error> {
    let row = sqlx::query("SELECT count(*) FROM dead_letter WHERE consumer = ?");
    let count: i64 = row.bind(consumer).fetch_one(connection).await?.get(0);
    Ok(u64::try_from(count).unwrap_or_default())
}

pub(super) fn signed(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

fn write(value: &impl Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}
