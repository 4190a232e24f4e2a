//! The table of refused logins.

use skytrail_schema::time::Timestamp;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, QueryBuilder, Row as _, Sqlite};

use crate::auth::refusals::{Kind, RefusalFilter, Refused};

/// The user's id is a string, and empty when there is no user.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS refusal (number INTEGER PRIMARY KEY, \
     minute INTEGER NOT NULL, user TEXT NOT NULL, way TEXT NOT NULL, reason TEXT NOT NULL, \
     count INTEGER NOT NULL, UNIQUE (minute, user, way, reason))";

pub(super) async fn add(
    connection: &mut SqliteConnection,
    counted: impl Iterator<Item = (&Kind, &u32)>,
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    for (kind, count) in counted {
        let row = sqlx::query(
            "INSERT INTO refusal (minute, user, way, reason, count) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (minute, user, way, reason) DO UPDATE SET count = count + excluded.count",
        );
        let user = kind.user.as_ref().map_or("", |user| user.as_str());
        let row = row.bind(kind.minute.micros()).bind(user).bind(&kind.way);
        let row = row.bind(kind.reason.name()).bind(i64::from(*count));
        row.execute(&mut *tx).await?;
    }
    tx.commit().await
}

pub(super) async fn list(
    connection: &mut SqliteConnection,
    filter: &RefusalFilter,
) -> Result<Vec<Refused>, sqlx::Error> {
    let mut sql = QueryBuilder::<Sqlite>::new(
        "SELECT number, minute, user, way, reason, count FROM refusal WHERE true",
    );
    if let Some(user) = &filter.user {
        sql.push(" AND user = ").push_bind(user.as_str());
    }
    if let Some(since) = filter.since {
        // The whole minute counts.
        sql.push(" AND minute > ")
            .push_bind(since.micros() - 60_000_000);
    }
    if let Some(until) = filter.until {
        sql.push(" AND minute <= ").push_bind(until.micros());
    }
    if let Some(before) = filter.before {
        sql.push(" AND number < ").push_bind(before);
    }
    sql.push(" ORDER BY number DESC LIMIT ")
        .push_bind(filter.limit);
    let rows = sql.build().fetch_all(connection).await?;
    let refused = rows.iter().map(|row| Refused {
        number: row.get(0),
        minute: Timestamp::from_micros(row.get(1)),
        user: Some(row.get(2)).filter(|user: &String| !user.is_empty()),
        way: row.get(3),
        reason: row.get(4),
        count: row.get(5),
    });
    Ok(refused.collect())
}

/// Deletes rows older than `oldest`, and the oldest of more than `most`.
pub(super) async fn trim(
    connection: &mut SqliteConnection,
    oldest: Timestamp,
    most: u32,
) -> Result<(), sqlx::Error> {
    let old = sqlx::query("DELETE FROM refusal WHERE minute < ?");
    old.bind(oldest.micros()).execute(&mut *connection).await?;
    let many = sqlx::query(
        "DELETE FROM refusal WHERE number <= \
         (SELECT number FROM refusal ORDER BY number DESC LIMIT 1 OFFSET ?)",
    );
    many.bind(most).execute(connection).await?;
    Ok(())
}
