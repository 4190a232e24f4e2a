//! Reads what concerns users: auth rows, linked accounts, relations.

use std::collections::{BTreeSet, HashMap};

use crate::projection::conn::{Conn, Row};
use skytrail_actors::record::apply::provider_key;
use skytrail_actors::store::RelatedPage;
use skytrail_schema::event::{Service, UserState};
use skytrail_schema::id::UserId;
use skytrail_schema::predicate::{Direction, Relation};

use super::apply::settings::relation_number;
use super::read::MAX_KEYS;
use super::sql::{Arg, Sql};

/// Loads auth rows.
pub(crate) async fn users(
    conn: &mut Conn<'_>,
    ids: &[UserId],
) -> Result<Vec<Option<(u32, UserState)>>, sqlx::Error> {
    let mut found: HashMap<String, (u32, UserState)> = HashMap::new();
    for chunk in ids.chunks(MAX_KEYS) {
        let mut sql = Sql::new("SELECT id, version, state FROM _auth WHERE id");
        sql.within(chunk, |id| id.as_str());
        for row in sql.fetch_all(conn).await? {
            let user = (row.unsigned(1)?, row.json(2)?);
            found.insert(row.text(0)?.into_owned(), user);
        }
    }
    Ok(ids
        .iter()
        .map(|id| found.get(id.as_str()).cloned())
        .collect())
}

/// Finds the user that an account elsewhere is linked to.
pub(crate) async fn linked(
    conn: &mut Conn<'_>,
    service: &Service,
    principal: &str,
) -> Result<Option<UserId>, sqlx::Error> {
    let mut sql = match service {
        Service::OAuth(provider) => {
            let mut sql = Sql::new("SELECT user_id FROM _sso_oauth WHERE provider=");
            sql.bind(Arg::text(provider)).push(" AND principal_id=");
            sql
        }
        Service::CustomToken => {
            Sql::new("SELECT user_id FROM _sso_custom_token WHERE principal_id=")
        }
        Service::Provider(_) => Sql::new("SELECT user_id FROM _auth_provider WHERE principal="),
    };
    sql.bind(match service {
        Service::Provider(name) => Arg::Text(provider_key(name, principal)),
        _ => Arg::text(principal),
    });
    let row = sql.fetch_optional(conn).await?;
    row.map(|row| user(&row)).transpose()
}

fn user(row: &Row) -> Result<UserId, sqlx::Error> {
    Ok(UserId::from(&*row.text(0)?))
}

/// Loads the version of a relation's stream, and those of `others` that the relation holds for.
pub(crate) async fn relations(
    conn: &mut Conn<'_>,
    relation: Relation,
    from: &UserId,
    others: &[UserId],
) -> Result<(u32, BTreeSet<UserId>), sqlx::Error> {
    let mut tx = conn.begin().await?;
    let mut sql = Sql::new("SELECT version FROM _relation_version WHERE kind=");
    sql.bind(Arg::Int(relation_number(relation)))
        .push(" AND from_user=");
    sql.bind(Arg::text(from.as_str()));
    let row = sql.fetch_optional(&mut tx.conn()).await?;
    let version = row.map_or(Ok(0), |row| row.unsigned(0))?;
    let mut held = BTreeSet::new();
    for chunk in others.chunks(MAX_KEYS) {
        let mut sql = Sql::new("SELECT to_user FROM _relation WHERE kind=");
        sql.bind(Arg::Int(relation_number(relation)));
        sql.push(" AND from_user=").bind(Arg::text(from.as_str()));
        sql.push(" AND to_user").within(chunk, UserId::as_str);
        for row in sql.fetch_all(&mut tx.conn()).await? {
            held.insert(user(&row)?);
        }
    }
    tx.rollback().await?;
    Ok((version, held))
}

/// Lists related users by id.
pub(crate) async fn related(
    conn: &mut Conn<'_>,
    relation: Relation,
    direction: Direction,
    user_id: &UserId,
) -> Result<Vec<UserId>, sqlx::Error> {
    let mut sql = select_related("SELECT ", relation, direction, user_id);
    sql.push(" ORDER BY 1");
    let rows = sql.fetch_all(conn).await?;
    rows.iter().map(user).collect()
}

/// Lists a page of related users by id, and counts all of them.
pub(crate) async fn related_page(
    conn: &mut Conn<'_>,
    page: &RelatedPage,
) -> Result<(Vec<UserId>, u64), sqlx::Error> {
    let RelatedPage {
        relation,
        direction,
        user: me,
        ..
    } = page;
    let dialect = conn.dialect();
    let mut tx = conn.begin().await?;
    let mut sql = select_related("SELECT count(*) FROM (SELECT ", *relation, *direction, me);
    sql.push(") AS related");
    let row = sql.fetch_optional(&mut tx.conn()).await?;
    let count = row.map_or(Ok(0), |row| row.unsigned(0))?;
    let mut sql = select_related("SELECT ", *relation, *direction, me);
    sql.push(" ORDER BY 1");
    dialect.push_limit(&mut sql, page.limit);
    sql.push(" OFFSET ").bind(Arg::unsigned(page.offset));
    let rows = sql.fetch_all(&mut tx.conn()).await?;
    tx.rollback().await?;
    let users = rows.iter().map(user).collect::<Result<_, _>>()?;
    Ok((users, count))
}

/// Begins a statement with the ids of the users that a relation names.
fn select_related(
    start: &'static str,
    relation: Relation,
    direction: Direction,
    user: &UserId,
) -> Sql {
    let kind = || Arg::Int(relation_number(relation));
    let user = || Arg::text(user.as_str());
    let mut sql = Sql::new(start);
    match direction {
        Direction::Outward | Direction::Mutual => {
            sql.push("to_user FROM _relation AS r WHERE kind=");
            sql.bind(kind()).push(" AND from_user=").bind(user());
        }
        Direction::Inward => {
            sql.push("from_user FROM _relation AS r WHERE kind=");
            sql.bind(kind()).push(" AND to_user=").bind(user());
        }
    }
    if direction == Direction::Mutual {
        sql.push(" AND EXISTS (SELECT 1 FROM _relation AS back WHERE back.kind=")
            .bind(kind());
        sql.push(" AND back.from_user=r.to_user AND back.to_user=")
            .bind(user());
        sql.push(")");
    }
    sql
}
