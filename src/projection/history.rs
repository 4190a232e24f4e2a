//! Finds the positions of a stream's events in the log.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

use skytrail_schema::event::{EventKind, Stream};
use skytrail_schema::id::UserId;

use crate::projection::conn::Conn;

use super::apply::stream_hash;
use super::dialect::Dialect;
use super::sql::{Arg, Sql};

/// The number of low bits of a position that vary within a slice of the stream index.
const SLICE_BITS: u32 = 16;

/// Added to the kind of an event whose payload was erased.
pub(crate) const ERASED: i64 = 1 << 15;

/// Kinds of events that do not build on earlier events of their record.
const FULL: [EventKind; 3] = [
    EventKind::RecordCreated,
    EventKind::RecordReplaced,
    EventKind::RecordDeleted,
];

/// How many streams one statement looks up.
const STREAMS: usize = 64;

/// Finds for each record's stream the last event up to its given position that does not build on
/// earlier ones.
pub(crate) async fn find_full_states(
    conn: &mut Conn<'_>,
    at: &[(Stream, u64)],
) -> Result<Vec<Option<u64>>, sqlx::Error> {
    let mut remaining: HashMap<i64, BTreeSet<u64>> = HashMap::new();
    for (stream, until) in at {
        remaining
            .entry(stream_hash(stream))
            .or_default()
            .insert(*until);
    }
    let mut found: HashMap<(i64, u64), u64> = HashMap::new();
    let last = at.iter().map(|(_, until)| *until).max();
    let last = last.unwrap_or_default();
    for slice in (0..=last >> SLICE_BITS).rev() {
        let kinds = FULL.map(|kind| kind.number().into());
        let streams: Vec<i64> = remaining.keys().copied().collect();
        for (stream, position) in list(conn, &streams, (slice, &kinds), (0, last)).await? {
            let limits = remaining.get(&stream).into_iter();
            for limit in limits.flat_map(|limits| limits.range(position..)) {
                let newest = found.entry((stream, *limit)).or_default();
                *newest = u64::max(*newest, position);
            }
        }
        remaining.retain(|stream, limits| {
            limits.retain(|limit| !found.contains_key(&(*stream, *limit)));
            !limits.is_empty()
        });
        if remaining.is_empty() {
            break;
        }
    }
    let found = at.iter().map(|(stream, until)| {
        let found = found.get(&(stream_hash(stream), *until));
        found.copied()
    });
    Ok(found.collect())
}

/// Lists the positions of the streams' events, each stream within its own range.
pub(crate) async fn list_candidates(
    conn: &mut Conn<'_>,
    ranges: &[(Stream, RangeInclusive<u64>)],
) -> Result<Vec<u64>, sqlx::Error> {
    // Streams with the same hash, which only their events can tell apart, keep their ranges side by
    // side.
    let mut by_stream: HashMap<i64, Vec<&RangeInclusive<u64>>> = HashMap::new();
    for (stream, range) in ranges {
        by_stream
            .entry(stream_hash(stream))
            .or_default()
            .push(range);
    }
    let streams: Vec<i64> = by_stream.keys().copied().collect();
    let first = ranges.iter().map(|(_, range)| *range.start()).min();
    let last = ranges.iter().map(|(_, range)| *range.end()).max();
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(Vec::new());
    };
    let mut positions = Vec::new();
    for slice in first >> SLICE_BITS..=last >> SLICE_BITS {
        let listed = list(conn, &streams, (slice, &[]), (first, last)).await?;
        let its = listed.into_iter().filter(|(stream, position)| {
            let mut its = by_stream.get(stream).into_iter().flatten();
            its.any(|range| range.contains(position))
        });
        positions.extend(its.map(|(_, position)| position));
    }
    positions.sort_unstable();
    Ok(positions)
}

/// Lists for each stream where records were created under its id, erased events included.
pub(crate) async fn list_creations(
    conn: &mut Conn<'_>,
    requested: &[Stream],
    until: u64,
) -> Result<Vec<Vec<u64>>, sqlx::Error> {
    let kind = i64::from(EventKind::RecordCreated.number());
    let kinds = [kind, kind + ERASED];
    let streams: HashSet<i64> = requested.iter().map(stream_hash).collect();
    let streams: Vec<i64> = streams.into_iter().collect();
    let mut found: HashMap<i64, Vec<u64>> = HashMap::new();
    for slice in 0..=until >> SLICE_BITS {
        for (stream, position) in list(conn, &streams, (slice, &kinds), (0, until)).await? {
            found.entry(stream).or_default().push(position);
        }
    }
    let found = requested.iter().map(|stream| {
        let mut positions = found.get(&stream_hash(stream)).cloned().unwrap_or_default();
        positions.sort_unstable();
        positions
    });
    Ok(found.collect())
}

/// Lists the events of streams within a slice, of some kinds or all, with their streams' hashes.
async fn list(
    conn: &mut Conn<'_>,
    streams: &[i64],
    (slice, kinds): (u64, &[i64]),
    (from, until): (u64, u64),
) -> Result<Vec<(i64, u64)>, sqlx::Error> {
    let mut found = Vec::new();
    for some in streams.chunks(STREAMS) {
        let mut sql = Sql::new("SELECT stream, position FROM _history WHERE position >> 16 = ");
        sql.bind(Arg::unsigned(slice)).push(" AND stream IN (");
        // Statements have one of two lengths only: the last stream is repeated to fill the list.
        let num_named = if some.len() > 1 { STREAMS } else { 1 };
        let last = some.last().into_iter().cycle();
        sql.separated(some.iter().chain(last).take(num_named), |sql, stream| {
            sql.bind(Arg::Int(*stream));
        });
        sql.push(") AND ").push(position(conn.dialect()));
        sql.push(" BETWEEN ").bind(Arg::unsigned(from));
        sql.push(" AND ").bind(Arg::unsigned(until));
        push_kinds(&mut sql, kinds);
        for row in sql.fetch_all(conn).await? {
            found.push((row.int(0)?, row.unsigned(1)?));
        }
    }
    Ok(found)
}

/// Returns the position as what only limits or sorts the events of streams. PostgreSQL plans without
/// knowing the values, and could take it for a narrow range: it would then read the whole history.
fn position(dialect: Dialect) -> &'static str {
    if dialect.is_sqlite() {
        "position"
    } else {
        "(position + 0)"
    }
}

/// Adds the condition that an event is of one of these kinds, if any are given.
fn push_kinds(sql: &mut Sql, kinds: &[i64]) {
    for (index, kind) in kinds.iter().enumerate() {
        sql.push(if index == 0 { " AND kind IN (" } else { "," });
        sql.bind(Arg::Int(*kind));
    }
    sql.push(if kinds.is_empty() { "" } else { ")" });
}

/// Lists the positions of a stream's last events up to `until`, newest first.
pub(crate) async fn list_candidates_before(
    conn: &mut Conn<'_>,
    stream: &Stream,
    until: u64,
    limit: usize,
) -> Result<Vec<u64>, sqlx::Error> {
    let mut positions = Vec::new();
    for slice in (0..=until >> SLICE_BITS).rev() {
        let Some(remaining) = limit
            .checked_sub(positions.len())
            .filter(|remaining| *remaining > 0)
        else {
            break;
        };
        let mut sql = Sql::new("SELECT position FROM _history WHERE position >> 16 = ");
        sql.bind(Arg::unsigned(slice)).push(" AND stream = ");
        sql.bind(Arg::Int(stream_hash(stream)));
        let position = position(conn.dialect());
        sql.push(" AND ").push(position).push(" <= ");
        sql.bind(Arg::unsigned(until));
        sql.push(" ORDER BY ").push(position).push(" DESC");
        let remaining = u64::try_from(remaining).unwrap_or(u64::MAX);
        conn.dialect().push_limit(&mut sql, Some(remaining));
        for row in sql.fetch_all(conn).await? {
            positions.push(row.unsigned(0)?);
        }
    }
    Ok(positions)
}

/// Lists the positions of events of a kind within a range, erased events included.
pub(crate) async fn list_positions_of_kind(
    conn: &mut Conn<'_>,
    kind: EventKind,
    from: u64,
    until: u64,
) -> Result<Vec<u64>, sqlx::Error> {
    let mut sql = Sql::new("SELECT position FROM _history WHERE position BETWEEN ");
    sql.bind(Arg::unsigned(from)).push(" AND ");
    sql.bind(Arg::unsigned(until));
    let kind = i64::from(kind.number());
    push_kinds(&mut sql, &[kind, kind + ERASED]);
    sql.push(" ORDER BY position");
    let rows = sql.fetch_all(conn).await?;
    rows.iter().map(|row| row.unsigned(0)).collect()
}

/// Lists the positions of events of some kinds, without those that other users have caused alone.
pub(crate) async fn list_positions_of_user(
    conn: &mut Conn<'_>,
    user: &UserId,
    kinds: &[EventKind],
    until: u64,
) -> Result<Vec<u64>, sqlx::Error> {
    let member = if conn.dialect().is_sqlite() {
        "actor->>"
    } else {
        "actor::json->>"
    };
    let kinds: Vec<i64> = kinds.iter().map(|kind| kind.number().into()).collect();
    let mut sql = Sql::new("SELECT position FROM _history WHERE position<=");
    sql.bind(Arg::unsigned(until));
    push_kinds(&mut sql, &kinds);
    sql.push(" AND actor IN (SELECT id FROM _actor WHERE ");
    sql.push(member)
        .push("'user'=")
        .bind(Arg::text(user.as_str()));
    sql.push(" OR ").push(member).push("'user' IS NULL");
    sql.push(" OR ").push(member).push("'key'='master'");
    for name in ["'plugin'", "'on_behalf'", "'rights'"] {
        sql.push(" OR ")
            .push(member)
            .push(name)
            .push(" IS NOT NULL");
    }
    sql.push(") ORDER BY position");
    let rows = sql.fetch_all(conn).await?;
    rows.iter().map(|row| row.unsigned(0)).collect()
}
