//! Where in the log a stream's events stand.

use crate::projection::conn::Conn;
use skytrail_schema::event::{EventKind, Stream};

use super::apply::stream_hash;
use super::sql::{Arg, Sql};

/// The bits of a position within a slice of the index over streams.
const SLICE_BITS: u32 = 16;

/// Added to the kind of an event whose payload was erased.
pub(crate) const ERASED: i64 = 1 << 15;

/// Kinds of events that do not build on earlier ones of their record.
const FULL: [EventKind; 3] = [
    EventKind::RecordCreated,
    EventKind::RecordReplaced,
    EventKind::RecordDeleted,
];

/// Finds the last event of a record's stream up to `until` that does not build on earlier ones.
pub(crate) async fn find_full_state(
    conn: &mut Conn<'_>,
    stream: &Stream,
    until: u64,
) -> Result<Option<u64>, sqlx::Error> {
    for slice in (0..=until >> SLICE_BITS).rev() {
        let mut sql = Sql::new("SELECT max(position) FROM _history WHERE position >> 16 = ");
        sql.bind(Arg::unsigned(slice)).push(" AND stream = ");
        sql.bind(Arg::Int(stream_hash(stream)));
        sql.push(" AND position <= ").bind(Arg::unsigned(until));
        push_kinds(&mut sql, &FULL.map(|kind| kind.number().into()));
        let row = sql.fetch_optional(conn).await?;
        let found = row.map_or(Ok(None), |row| row.maybe_int(0))?;
        if let Some(position) = found.and_then(|found| u64::try_from(found).ok()) {
            return Ok(Some(position));
        }
    }
    Ok(None)
}

/// Lists the positions of a stream's events from one position to another.
pub(crate) async fn list_positions(
    conn: &mut Conn<'_>,
    stream: &Stream,
    from: u64,
    until: u64,
) -> Result<Vec<u64>, sqlx::Error> {
    list(conn, stream, (from, until), &[]).await
}

/// Lists where records were created under a stream's id, also what was erased since.
pub(crate) async fn list_creations(
    conn: &mut Conn<'_>,
    stream: &Stream,
    until: u64,
) -> Result<Vec<u64>, sqlx::Error> {
    let kind = i64::from(EventKind::RecordCreated.number());
    list(conn, stream, (0, until), &[kind, kind + ERASED]).await
}

/// Lists the positions of a stream's events of some kinds, or of all.
async fn list(
    conn: &mut Conn<'_>,
    stream: &Stream,
    (from, until): (u64, u64),
    kinds: &[i64],
) -> Result<Vec<u64>, sqlx::Error> {
    let mut positions = Vec::new();
    for slice in from >> SLICE_BITS..=until >> SLICE_BITS {
        let mut sql = Sql::new("SELECT position FROM _history WHERE position >> 16 = ");
        sql.bind(Arg::unsigned(slice)).push(" AND stream = ");
        sql.bind(Arg::Int(stream_hash(stream)));
        sql.push(" AND position BETWEEN ").bind(Arg::unsigned(from));
        sql.push(" AND ").bind(Arg::unsigned(until));
        push_kinds(&mut sql, kinds);
        sql.push(" ORDER BY position");
        for row in sql.fetch_all(conn).await? {
            positions.push(row.unsigned(0)?);
        }
    }
    Ok(positions)
}

/// Adds that an event is of one of these kinds.
fn push_kinds(sql: &mut Sql, kinds: &[i64]) {
    for (index, kind) in kinds.iter().enumerate() {
        sql.push(if index == 0 { " AND kind IN (" } else { "," });
        sql.bind(Arg::Int(*kind));
    }
    sql.push(if kinds.is_empty() { "" } else { ")" });
}

/// Lists the positions of a stream's last events up to `until`, the newest first.
pub(crate) async fn list_positions_before(
    conn: &mut Conn<'_>,
    stream: &Stream,
    until: u64,
    limit: usize,
) -> Result<Vec<u64>, sqlx::Error> {
    let mut positions = Vec::new();
    for slice in (0..=until >> SLICE_BITS).rev() {
        let Some(left) = limit.checked_sub(positions.len()).filter(|left| *left > 0) else {
            break;
        };
        let mut sql = Sql::new("SELECT position FROM _history WHERE position >> 16 = ");
        sql.bind(Arg::unsigned(slice)).push(" AND stream = ");
        sql.bind(Arg::Int(stream_hash(stream)));
        sql.push(" AND position <= ").bind(Arg::unsigned(until));
        sql.push(" ORDER BY position DESC");
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        conn.dialect().push_limit(&mut sql, Some(left));
        for row in sql.fetch_all(conn).await? {
            positions.push(row.unsigned(0)?);
        }
    }
    Ok(positions)
}

/// Lists the positions of events of a kind from one position to another.
pub(crate) async fn list_positions_of_kind(
    conn: &mut Conn<'_>,
    kind: EventKind,
    from: u64,
    until: u64,
) -> Result<Vec<u64>, sqlx::Error> {
    let mut sql = Sql::new("SELECT position FROM _history WHERE position BETWEEN ");
    sql.bind(Arg::unsigned(from)).push(" AND ");
    sql.bind(Arg::unsigned(until)).push(" AND kind = ");
    sql.bind(Arg::Int(kind.number().into()));
    sql.push(" ORDER BY position");
    let rows = sql.fetch_all(conn).await?;
    rows.iter().map(|row| row.unsigned(0)).collect()
}
