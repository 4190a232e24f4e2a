//! Writes a row per event: where a stream's versions are in the log, by whom and when.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use crate::projection::conn::Conn;
use lru::LruCache;
use skytrail_schema::event::{Actor, Commit, Event, Stream};

use super::ApplyError;
use super::texts::{in_chunks, insert_or_fail, push_rows};
use crate::projection::history::ERASED;
use crate::projection::names::fnv;
use crate::projection::sql::{Arg, Kind, Sql};

/// How many rows one statement writes.
const SIZES: &[usize] = &[64, 16, 4, 1];

/// The kinds of a row's values.
const KINDS: [Kind; 6] = [
    Kind::Int,
    Kind::Int,
    Kind::Int,
    Kind::Int,
    Kind::Int,
    Kind::Time,
];

/// How many actors' numbers are cached.
const MAX_ACTORS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A cache of the numbers of actors.
pub(in crate::projection) struct Actors(LruCache<String, i64>);

impl Default for Actors {
    fn default() -> Self {
        Self(LruCache::new(MAX_ACTORS))
    }
}

impl Actors {
    /// Clears the cache, since numbers assigned recently may not be stored.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Hashes a stream's name to 47 bits, which the database stores in six bytes.
///
/// Streams with the same hash are told apart by their events.
pub(in crate::projection) fn stream_hash(stream: &Stream) -> i64 {
    i64::try_from(fnv(&stream.to_string()) >> 17).unwrap_or_default()
}

/// Writes the rows of the commits' events.
pub(super) async fn write(
    conn: &mut Conn<'_>,
    actors: &mut Actors,
    commits: &[&Commit],
) -> Result<(), ApplyError> {
    let texts: Vec<String> = commits
        .iter()
        .map(|commit| actor_text(&commit.actor))
        .collect();
    number_actors(conn, actors, &texts).await?;
    let mut rows = Vec::new();
    for (commit, text) in commits.iter().zip(&texts) {
        let actor = actors.0.get(text).copied().unwrap_or_default();
        rows.extend(commit.events.iter().map(|event| row(commit, event, actor)));
    }
    for chunk in in_chunks(rows, SIZES, 6) {
        let mut sql = Sql::new(insert_or_fail(conn.dialect()));
        sql.push("_history (position, stream, version, kind, actor, time) VALUES ");
        push_rows(&mut sql, &KINDS, chunk.len());
        let args = chunk.into_iter().flatten().collect();
        sql.into_text().execute(conn, args).await?;
    }
    Ok(())
}

fn row(commit: &Commit, event: &Event, actor: i64) -> [Arg; 6] {
    [
        Arg::unsigned(event.position),
        Arg::Int(stream_hash(&event.stream)),
        Arg::Int(event.version.into()),
        Arg::Int(kind_of(event)),
        Arg::Int(actor),
        Arg::Time(commit.time),
    ]
}

/// Returns the number of an event's kind, with a mark if the event was erased: its state can no
/// longer be read.
fn kind_of(event: &Event) -> i64 {
    let number = i64::from(event.body.kind().number());
    match event.body.erased() {
        Some(_) => number | ERASED,
        None => number,
    }
}

fn actor_text(actor: &Actor) -> String {
    // Every member of an actor can be serialized.
    serde_json::to_string(actor).unwrap_or_default()
}

/// Makes sure that every actor has a number. New ones get theirs in the order of events, so that
/// the sizes of batches make no difference.
async fn number_actors(
    conn: &mut Conn<'_>,
    actors: &mut Actors,
    texts: &[String],
) -> Result<(), ApplyError> {
    let mut seen = BTreeSet::new();
    let unknown = texts
        .iter()
        .filter(|text| actors.0.get(*text).is_none() && seen.insert(*text));
    let unknown: Vec<&String> = unknown.collect();
    for chunk in unknown.chunks(256) {
        let mut sql = Sql::new("SELECT id, actor FROM _actor WHERE actor");
        sql.within(chunk, |text| text.as_str());
        for row in sql.fetch_all(conn).await? {
            actors.0.put(row.text(1)?.into_owned(), row.int(0)?);
        }
        let new = chunk.iter().filter(|text| actors.0.get(**text).is_none());
        let new: Vec<&String> = new.copied().collect();
        add_actors(conn, actors, &new).await?;
    }
    Ok(())
}

/// Adds actors. Their numbers have no gaps. A database's own counter would leave gaps after every
/// batch that was undone, and stores would differ.
async fn add_actors(
    conn: &mut Conn<'_>,
    actors: &mut Actors,
    texts: &[&String],
) -> Result<(), ApplyError> {
    if texts.is_empty() {
        return Ok(());
    }
    let sql = Sql::new("SELECT coalesce(max(id), 0) FROM _actor");
    let row = sql.fetch_optional(conn).await?;
    let last = row.map_or(Ok(0), |row| row.int(0))?;
    let mut sql = Sql::new("INSERT INTO _actor (id, actor) VALUES ");
    sql.separated((last + 1..).zip(texts), |sql, (id, text)| {
        sql.push("(").bind(Arg::Int(id)).push(",");
        sql.bind(Arg::text(text.as_str())).push(")");
        actors.0.put((*text).clone(), id);
    });
    sql.execute(conn).await?;
    Ok(())
}
