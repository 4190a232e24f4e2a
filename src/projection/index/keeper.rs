//! The upkeep of indexes: finds out which queries scan, and carries out what `advice` says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::projection::conn::Conn;
use skytrail_schema::time::Timestamp;

use super::access::{Access, explain};
use super::advice::{Advice, IndexLimits, Scanning, advise};
use super::shape::Shape;
use super::stats::{Stats, Usage};
use super::table::{self, IndexEntry, IndexState, IndexWish};
use crate::projection::ddl;
use crate::projection::dialect::is_refusal;
use crate::projection::layout::{Catalog, Table, TypeLayout};
use crate::projection::names::Name;
use crate::projection::sql::{Arg, SafeText, Sql};

/// How often the keeper looks.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);

/// What the keeper has seen.
#[derive(Default)]
pub(crate) struct IndexSurvey {
    entries: Vec<IndexEntry>,
    /// The entries that lack a counterpart over the past.
    lacking: Vec<IndexEntry>,
    scanning: Vec<Scanning>,
    uses: BTreeMap<String, u64>,
}

impl IndexSurvey {
    /// Looks at the queries since the last look, without writing.
    pub(crate) async fn take(
        conn: &mut Conn<'_>,
        catalog: &Catalog,
        stats: &Stats,
        limits: &IndexLimits,
    ) -> Result<Self, sqlx::Error> {
        let mut look = Self {
            entries: table::load(conn).await?,
            ..Self::default()
        };
        // A deleted field can return.
        look.entries.retain(|entry| {
            let layout = catalog.get(&entry.record_type);
            let made = layout.and_then(|layout| ddl::query_index(layout, &entry.columns));
            let is_forbidden = entry.wish == IndexWish::Forbidden;
            made.is_some() || is_forbidden || entry.state == IndexState::Built
        });
        look.lacking = lacking(conn, catalog, &look.entries, limits).await?;
        let mut plans: HashMap<SafeText, Access> = HashMap::new();
        for (shape, usage) in stats.take_look() {
            if usage.num_new == 0 {
                continue;
            }
            let plan = match plans.get(&usage.sample.0) {
                Some(plan) => plan.clone(),
                None => match explain(conn, &usage.sample).await {
                    Ok(plan) => plan,
                    // The other shapes are not affected, and their queries would not be reported
                    // again.
                    Err(error) if is_refusal(&error) => {
                        let record_type = &shape.record_type;
                        tracing::warn!(%record_type, %error, "a query could not be explained");
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            look.note(conn, catalog, limits, (shape, &usage, &plan))
                .await?;
            plans.insert(usage.sample.0, plan);
        }
        Ok(look)
    }

    async fn note(
        &mut self,
        conn: &mut Conn<'_>,
        catalog: &Catalog,
        limits: &IndexLimits,
        (shape, usage, plan): (Shape, &Usage, &Access),
    ) -> Result<(), sqlx::Error> {
        for name in &plan.uses {
            // The two count as one, and a query of the past looks at both.
            let name = ddl::present_index_name(name).unwrap_or_else(|| name.clone());
            let num_new = if shape.is_past { 0 } else { usage.num_new };
            *self.uses.entry(name).or_default() += num_new;
        }
        let layout = catalog.get(&shape.record_type);
        let has_index = |layout: &&Arc<TypeLayout>| ddl::can_index(layout, &shape.best_index());
        if let Some(layout) = layout.filter(|_| plan.is_scanning).filter(has_index)
            && let Some(table) = &layout.table
            && has(conn, table, limits.min_rows).await?
        {
            self.scanning.push(Scanning {
                shape,
                num_queries: usage.num_queries,
                micros: usage.micros,
                is_too_large: is_too_large(conn, table, limits).await?,
            });
        }
        Ok(())
    }

    /// Returns what to do.
    pub(crate) fn advise(&self, limits: &IndexLimits, now: Timestamp) -> Vec<Advice> {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            if entry
                .name
                .as_ref()
                .is_some_and(|name| self.uses.contains_key(name))
            {
                entry.last_used_at = Some(now);
            }
        }
        let mut advice = advise(&entries, &self.scanning, limits, now);
        let goes = |entry: &&IndexEntry| {
            let is_it = |it: &IndexEntry| it.is_on(&entry.record_type, &entry.columns);
            let mut advice = advice.iter();
            advice.any(|advice| matches!(advice, Advice::Drop(it) if is_it(it)))
        };
        let stay = self.lacking.iter().filter(|entry| !goes(entry));
        let like: Vec<_> = stay.cloned().map(Advice::BuildPast).collect();
        advice.extend(like);
        advice
    }

    /// Stores which indexes were used.
    pub(crate) async fn save_uses(
        &self,
        conn: &mut Conn<'_>,
        now: Timestamp,
    ) -> Result<(), sqlx::Error> {
        for (name, num_uses) in &self.uses {
            let is_ours = |entry: &IndexEntry| entry.name.as_ref() == Some(name);
            if self.entries.iter().any(is_ours) {
                table::count_uses(conn, name, *num_uses, now).await?;
            }
        }
        Ok(())
    }

    /// Returns whether any indexes were used.
    pub(crate) fn has_uses(&self) -> bool {
        !self.uses.is_empty()
    }
}

async fn is_too_large(
    conn: &mut Conn<'_>,
    table: &Table,
    limits: &IndexLimits,
) -> Result<bool, sqlx::Error> {
    // Where creating an index does not block writes, no table is too large.
    Ok(conn.dialect().is_sqlite() && has(conn, table, limits.max_rows).await?)
}

/// Returns whether a table has at least this many rows.
async fn has(conn: &mut Conn<'_>, table: &Table, at_least: u64) -> Result<bool, sqlx::Error> {
    let mut sql = Sql::new("SELECT 1 FROM ");
    sql.name(&table.name).push(" LIMIT 1 OFFSET ");
    sql.bind(Arg::unsigned(at_least.saturating_sub(1)));
    Ok(sql.fetch_optional(conn).await?.is_some())
}

/// Finds the indexes that exist, but lack a counterpart over the past that the type keeps.
async fn lacking(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    entries: &[IndexEntry],
    limits: &IndexLimits,
) -> Result<Vec<IndexEntry>, sqlx::Error> {
    let mut found = Vec::new();
    for entry in entries {
        let needs_past = entry.state == IndexState::Built && entry.wish != IndexWish::Forbidden;
        let layout = catalog.get(&entry.record_type);
        let past = layout.and_then(|layout| layout.past());
        let Some(past) = past.filter(|_| needs_past && !entry.has_past) else {
            continue;
        };
        if !entry.is_loose() || !is_too_large(conn, &past, limits).await? {
            found.push(entry.clone());
        }
    }
    Ok(found)
}

/// Carries out one advice. In a file, writes wait meanwhile.
pub(crate) async fn follow(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    advice: Advice,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    match advice {
        Advice::Build(entry) => build(conn, catalog, entry, now).await,
        Advice::BuildPast(entry) => build_past(conn, catalog, entry).await,
        Advice::Drop(entry) => drop_index(conn, entry).await,
        Advice::Decline(entry) => decline(conn, entry).await,
    }
}

async fn build(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    mut entry: IndexEntry,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let layout = catalog.get(&entry.record_type);
    let table = layout.and_then(|layout| layout.table.as_ref());
    let made = layout.and_then(|layout| ddl::query_index(layout, &entry.columns));
    let (Some(table), Some((text, name))) = (table, made) else {
        // The type or field may be created later.
        return Ok(());
    };
    text.execute(conn, Vec::new()).await?;
    analyze(conn, table).await?;
    entry.state = IndexState::Built;
    entry.name = Some(name.as_str().to_owned());
    entry.built_at = Some(now);
    entry.num_bytes = size(conn, &name).await?;
    tracing::info!(
        record_type = %entry.record_type,
        index = name.as_str(),
        why = entry.why,
        size_bytes = entry.num_bytes,
        "index built"
    );
    table::save(conn, &entry).await
}

/// Creates the counterpart of an index over the past.
async fn build_past(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    mut entry: IndexEntry,
) -> Result<(), sqlx::Error> {
    let layout = catalog.get(&entry.record_type);
    let past = layout.and_then(|layout| layout.past());
    let made = layout.and_then(|layout| ddl::past_index(layout, &entry));
    let (Some(past), Some((text, name))) = (past, made) else {
        return Ok(());
    };
    text.execute(conn, Vec::new()).await?;
    analyze(conn, &past).await?;
    let size_bytes = size(conn, &name).await?;
    tracing::info!(
        record_type = %entry.record_type,
        index = name.as_str(),
        size_bytes,
        "index over the past built"
    );
    entry.num_bytes += size_bytes;
    table::save(conn, &entry).await
}

/// Renews the planner's statistics.
///
/// Without them it prefers a narrow index and sorts the rows itself. A few samples are enough; and
/// with a limit it keeps no histogram, which would make it prepare statements anew for each value.
async fn analyze(conn: &mut Conn<'_>, table: &Table) -> Result<(), sqlx::Error> {
    if conn.dialect().is_sqlite() {
        let few = Sql::new("PRAGMA analysis_limit = 400");
        few.execute(conn).await?;
    }
    let done = ddl::analyze(table).execute(conn, Vec::new()).await;
    done.map(drop)
}

/// Records that an index cannot exist, and why.
pub(crate) async fn save_forbidden(
    conn: &mut Conn<'_>,
    entry: IndexEntry,
    why: &'static str,
) -> Result<(), sqlx::Error> {
    let entry = IndexEntry {
        wish: IndexWish::Forbidden,
        state: IndexState::None,
        name: None,
        num_bytes: 0,
        why: why.to_owned(),
        ..entry
    };
    table::save(conn, &entry).await
}

/// Records that queries need an index that is not created.
async fn decline(conn: &mut Conn<'_>, entry: IndexEntry) -> Result<(), sqlx::Error> {
    tracing::warn!(
        record_type = %entry.record_type,
        columns = entry.column_list(),
        why = entry.why,
        "index not built"
    );
    table::save(conn, &entry).await
}

async fn drop_index(conn: &mut Conn<'_>, mut entry: IndexEntry) -> Result<(), sqlx::Error> {
    if let Some(name) = entry.name.take() {
        let of_past = ddl::past_index_name(&name);
        for name in of_past.iter().chain([&name]) {
            let text = ddl::drop_query_index(name, conn.dialect());
            text.execute(conn, Vec::new()).await?;
        }
        tracing::info!(index = name, why = entry.why, "index dropped");
    }
    entry.state = IndexState::None;
    entry.num_bytes = 0;
    table::save(conn, &entry).await
}

async fn size(conn: &mut Conn<'_>, name: &Name) -> Result<u64, sqlx::Error> {
    let dialect = conn.dialect();
    let mut sql = Sql::new(dialect.choose(
        "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name=",
        "SELECT pg_relation_size(to_regclass(",
    ));
    sql.bind(dialect.choose(Arg::name(name), Arg::quoted(name)));
    sql.push(dialect.choose("", "))"));
    let row = sql.fetch_optional(conn).await?;
    let bytes = row.map_or(Ok(0), |row| row.int(0))?;
    Ok(u64::try_from(bytes).unwrap_or_default())
}

/// Stores what somebody wants of an index; the keeper follows soon.
pub(crate) async fn wish(
    conn: &mut Conn<'_>,
    requested: IndexEntry,
) -> Result<IndexEntry, sqlx::Error> {
    let existing = table::load(conn).await?;
    let existing = existing
        .into_iter()
        .find(|entry| entry.is_on(&requested.record_type, &requested.columns));
    let entry = match existing {
        None => requested,
        Some(existing) => IndexEntry {
            wish: requested.wish,
            is_pinned: requested.is_pinned,
            why: requested.why,
            state: match existing.state {
                IndexState::Built => IndexState::Built,
                IndexState::Wanted | IndexState::None => requested.state,
            },
            ..existing
        },
    };
    table::save(conn, &entry).await?;
    Ok(entry)
}

/// Copies what was known of the previous store's indexes to a store that was made anew.
pub(crate) async fn carry_over(
    conn: &mut Conn<'_>,
    entries: Vec<IndexEntry>,
) -> Result<(), sqlx::Error> {
    for mut entry in entries {
        if entry.state == IndexState::Built && entry.wish != IndexWish::Forbidden {
            entry.state = IndexState::Wanted;
        }
        entry.name = None;
        entry.num_bytes = 0;
        table::save(conn, &entry).await?;
    }
    Ok(())
}
