//! Applies what is still in the outbox to the rows again.
//!
//! The projector writes a row as the log has it, and so temporarily undoes what other programs have
//! changed in it since. The next `n = n + 1` would then start from an old number. So in the same
//! transaction, while it has the row locked, it applies what is in the outbox to the row again: what
//! each transaction did to it in total. The events that follow say the same.

use std::collections::{BTreeMap, BTreeSet};

use skytrail_schema::id::RecordKey;

use super::places::{Touched, take_away};
use crate::projection::conn::Conn;
use crate::projection::layout::is_own;
use crate::projection::names::Name;
use crate::projection::read::MAX_KEYS;
use crate::projection::sql::{Arg, Sql};

/// What the outbox has of a row.
#[derive(Default)]
struct Pending {
    columns: BTreeSet<String>,
    /// The outbox row that has the current state, if the row still exists.
    after: Option<i64>,
}

/// Applies what is in the outbox to rows that were just written.
pub(super) async fn overlay(conn: &mut Conn<'_>, touched: Touched) -> Result<(), sqlx::Error> {
    for (table, rows) in touched {
        let keys: Vec<RecordKey> = rows.into_keys().collect();
        for chunk in keys.chunks(MAX_KEYS) {
            for (key, pending) in load(conn, &table, chunk).await? {
                pending.put_on(conn, &table, &key).await?;
            }
        }
    }
    Ok(())
}

async fn load(
    conn: &mut Conn<'_>,
    table: &Name,
    keys: &[RecordKey],
) -> Result<BTreeMap<String, Pending>, sqlx::Error> {
    // What is applied here must not leave the outbox without an event meanwhile, see `discard`.
    // What a transaction undoes itself becomes no event, so it must not be applied either.
    let mut sql = Sql::new(
        "WITH _n AS (SELECT key, min(id) AS first, max(id) AS last FROM _outbox WHERE table_name=",
    );
    sql.bind(Arg::name(table)).push(" AND key");
    sql.within(keys, RecordKey::as_str);
    // Only the database reads these rows, since they may contain what cannot be read here. A column
    // may have been dropped since, and generated columns are generated again.
    sql.push(
        " GROUP BY key, transaction) \
         SELECT _n.key, l.id, l.after IS NULL, (SELECT coalesce(jsonb_agg(c.name),'[]') \
         FROM jsonb_each(l.after) AS c (name, value) \
         JOIN pg_attribute AS a ON a.attname=c.name AND a.attrelid=to_regclass(",
    );
    sql.bind(Arg::quoted(table)).push(
        ") AND a.attnum>0 AND a.attgenerated='' AND a.attidentity<>'a' \
         WHERE f.before->c.name IS DISTINCT FROM c.value) \
         FROM _n JOIN _outbox AS f ON f.id=_n.first JOIN _outbox AS l ON l.id=_n.last \
         WHERE f.before IS DISTINCT FROM l.after ORDER BY l.id FOR SHARE OF l",
    );
    let mut found: BTreeMap<String, Pending> = BTreeMap::new();
    for row in sql.fetch_all(conn).await? {
        let is_gone = row.flag(2)?;
        let columns = row.catalog_list(3)?;
        let pending = found.entry(row.text(0)?.into_owned()).or_default();
        pending.columns.extend(columns);
        pending.after = match is_gone {
            true => None,
            false => Some(row.int(1)?),
        };
    }
    Ok(found)
}

impl Pending {
    async fn put_on(self, conn: &mut Conn<'_>, table: &Name, key: &str) -> Result<(), sqlx::Error> {
        let Some(after) = self.after else {
            // A row that another program has created again has no position.
            let mut sql = Sql::new("DELETE FROM ");
            sql.name(table).push(" WHERE _position<>0 AND _id=");
            sql.bind(Arg::text(key));
            return take_away(conn, table, sql).await;
        };
        let is_theirs = |name: &&String| !is_own(name);
        let columns = self.columns.iter().filter(is_theirs);
        let columns: Vec<Name> = columns.map(|name| Name::new(name)).collect();
        if columns.is_empty() {
            return Ok(());
        }
        let mut sql = Sql::new("UPDATE ");
        sql.name(table).push(" AS t SET ");
        sql.separated(&columns, |sql, column| {
            sql.name(column).push("=o.").name(column);
        });
        // NULL of the table's own type: a type of the database can have the same name. No column
        // has the alias, which is therefore the row.
        sql.push(" FROM _outbox AS p, jsonb_populate_record((SELECT _row_of FROM ")
            .name(table);
        sql.push(" AS _row_of LIMIT 0),p.after) AS o WHERE p.id=")
            .bind(Arg::Int(after))
            .push(" AND t._id=")
            .bind(Arg::text(key));
        sql.execute(conn).await?;
        Ok(())
    }
}
