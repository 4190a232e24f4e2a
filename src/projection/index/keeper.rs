//! Looking after the indexes: seeing which queries scan, and doing what `advice` says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::projection::conn::Conn;
use skytrail_schema::time::Timestamp;

use super::advice::{Advice, IndexLimits, Scanning, advise};
use super::shape::Shape;
use super::stats::{Stats, Usage};
use super::table::{self, IndexEntry, IndexState, IndexWish};
use crate::projection::ddl;
use crate::projection::layout::{Catalog, TypeLayout};
use crate::projection::sql::{Arg, SafeText, Sql};

/// How often the keeper looks.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);

/// What the database would do for a query.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// It reads a whole table, or sorts what an index could have sorted.
    is_scanning: bool,
    /// The indexes that it uses.
    uses: HashSet<String>,
}

/// What the keeper saw.
#[derive(Default)]
pub(crate) struct Look {
    entries: Vec<IndexEntry>,
    scanning: Vec<Scanning>,
    uses: BTreeMap<String, u64>,
}

impl Look {
    /// Looks at the queries since the last time, without writing.
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
        let mut plans: HashMap<SafeText, Plan> = HashMap::new();
        for (shape, usage) in stats.take_look() {
            if usage.num_new == 0 {
                continue;
            }
            let plan = match plans.get(&usage.sample) {
                Some(plan) => plan.clone(),
                None => explain(conn, &usage.sample).await?,
            };
            look.note(conn, catalog, limits, (shape, &usage, &plan))
                .await?;
            plans.insert(usage.sample, plan);
        }
        Ok(look)
    }

    async fn note(
        &mut self,
        conn: &mut Conn<'_>,
        catalog: &Catalog,
        limits: &IndexLimits,
        (shape, usage, plan): (Shape, &Usage, &Plan),
    ) -> Result<(), sqlx::Error> {
        for name in &plan.uses {
            *self.uses.entry(name.clone()).or_default() += usage.num_new;
        }
        let layout = catalog.get(&shape.record_type);
        if let Some(layout) = layout.filter(|_| plan.is_scanning)
            && has_fitting_size(conn, layout, limits).await?
        {
            self.scanning.push(Scanning {
                shape,
                num_queries: usage.num_queries,
                micros: usage.micros,
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
        advise(&entries, &self.scanning, limits, now)
    }

    /// Writes down which indexes were used.
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

    /// Whether some of our indexes were used.
    pub(crate) fn has_uses(&self) -> bool {
        !self.uses.is_empty()
    }
}

async fn explain(conn: &mut Conn<'_>, sample: &SafeText) -> Result<Plan, sqlx::Error> {
    let mut plan = Plan::default();
    for row in sample.explained().fetch_all(conn, Vec::new()).await? {
        let detail = row.text(3)?;
        if let Some((_, rest)) = detail.split_once(" INDEX ") {
            // A name may hold anything; what follows it is a space and a bracket, or nothing.
            let name = rest.rsplit_once(" (").map_or(rest, |(name, _)| name);
            plan.uses.insert(name.to_owned());
        }
        let is_record_table = |rest: &str| {
            let alias = rest.split(' ').next().unwrap_or_default();
            let number = alias.strip_prefix('j').unwrap_or("-");
            alias == "t" || number.parse::<u32>().is_ok()
        };
        let scans = detail.strip_prefix("SCAN ").is_some_and(is_record_table);
        plan.is_scanning |= scans && !detail.contains(" INDEX ");
        // One that the database makes for a single query and throws away.
        plan.is_scanning |= detail.contains(" USING AUTOMATIC ");
        plan.is_scanning |= detail.starts_with("USE TEMP B-TREE FOR");
    }
    Ok(plan)
}

async fn has_fitting_size(
    conn: &mut Conn<'_>,
    layout: &TypeLayout,
    limits: &IndexLimits,
) -> Result<bool, sqlx::Error> {
    let Some(table) = &layout.table else {
        return Ok(false);
    };
    let has = |at_least: u64| {
        let mut sql = Sql::new("SELECT 1 FROM ");
        sql.name(&table.name).push(" LIMIT 1 OFFSET ");
        sql.bind(Arg::unsigned(at_least.saturating_sub(1)));
        sql
    };
    let is_large = has(limits.min_rows).fetch_optional(conn).await?.is_some();
    Ok(is_large && has(limits.max_rows).fetch_optional(conn).await?.is_none())
}

/// Does one thing. Writing waits meanwhile.
pub(crate) async fn follow(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    advice: Advice,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    match advice {
        Advice::Build(entry) => build(conn, catalog, entry, now).await,
        Advice::Drop(entry) => drop_index(conn, entry).await,
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
        // The type or field may come later.
        return Ok(());
    };
    text.execute(conn, Vec::new()).await?;
    // Without numbers the planner prefers a narrow index and sorts by hand. Few samples are enough,
    // and with a limit it keeps no histogram, for which it would prepare statements anew per value.
    Sql::new("PRAGMA analysis_limit = 400")
        .execute(conn)
        .await?;
    ddl::analyze(table).execute(conn, Vec::new()).await?;
    entry.state = IndexState::Built;
    entry.name = Some(name.as_str().to_owned());
    entry.built_at = Some(now);
    entry.num_bytes = size(conn, name.as_str()).await?;
    tracing::info!(
        record_type = %entry.record_type,
        index = name.as_str(),
        why = entry.why,
        size_bytes = entry.num_bytes,
        "index built"
    );
    table::save(conn, &entry).await
}

async fn drop_index(conn: &mut Conn<'_>, mut entry: IndexEntry) -> Result<(), sqlx::Error> {
    if let Some(name) = entry.name.take() {
        ddl::drop_index(&name).execute(conn, Vec::new()).await?;
        tracing::info!(index = name, why = entry.why, "index dropped");
    }
    entry.state = IndexState::None;
    entry.num_bytes = 0;
    table::save(conn, &entry).await
}

async fn size(conn: &mut Conn<'_>, name: &str) -> Result<u64, sqlx::Error> {
    let mut sql = Sql::new("SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name=");
    sql.bind(Arg::text(name));
    let row = sql.fetch_optional(conn).await?;
    let bytes = row.map_or(Ok(0), |row| row.int(0))?;
    Ok(u64::try_from(bytes).unwrap_or_default())
}

/// Says what somebody wants of an index; the store follows soon.
pub(crate) async fn wish(
    conn: &mut Conn<'_>,
    wanted: IndexEntry,
) -> Result<IndexEntry, sqlx::Error> {
    let known = table::load(conn).await?;
    let known = known
        .into_iter()
        .find(|entry| entry.is_on(&wanted.record_type, &wanted.columns));
    let entry = match known {
        None => wanted,
        Some(known) => IndexEntry {
            wish: wanted.wish,
            is_pinned: wanted.is_pinned,
            why: wanted.why,
            state: if known.state == IndexState::None {
                wanted.state
            } else {
                known.state
            },
            ..known
        },
    };
    table::save(conn, &entry).await?;
    Ok(entry)
}

/// Takes over, into a store that was made anew, what is known of the indexes of the one before.
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
