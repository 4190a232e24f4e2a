//! Which records a caller can see, as a condition.

use skytrail_actors::store::Viewer;
use skytrail_schema::query::Scope;

use crate::projection::dialect::Dialect;
use crate::projection::sql::{Arg, Sql};

/// Adds what a condition can read behind a reference: only what the caller can see as well. That is
/// the public database and, in a private database, that one.
pub(super) fn push_joined(sql: &mut Sql, viewer: &Viewer<'_>, dialect: Dialect, number: usize) {
    if viewer.caller.is_master() {
        return;
    }
    sql.push(" AND (");
    if let Scope::Private(user) = viewer.scope {
        sql.alias('j', number).push("._database_id=");
        sql.bind(Arg::text(user.as_str())).push(" OR ");
    }
    sql.alias('j', number).push("._database_id=''");
    push_lists(sql, viewer, dialect, AclSource::Joined(number));
    sql.push(")");
}

/// Which access lists count.
#[derive(Clone, Copy)]
enum AclSource {
    /// Those of the queried table; for past versions of records, their lists of that time.
    Queried,
    /// The current ones of records whose past versions are queried.
    Today,
    /// Those of a joined table.
    Joined(usize),
}

/// Adds the conditions on the database and, in the public one, on access lists of `t`. For a query
/// of the past this includes the current access lists.
pub(super) fn push(sql: &mut Sql, viewer: &Viewer<'_>, dialect: Dialect, is_past: bool) {
    match viewer.scope {
        Scope::Union => {
            sql.push("1=1");
        }
        Scope::Private(user) => {
            sql.push("t._database_id=").bind(Arg::text(user.as_str()));
        }
        Scope::Public => {
            sql.push("t._database_id=''");
            if !viewer.caller.is_master() {
                push_lists(sql, viewer, dialect, AclSource::Queried);
                if is_past {
                    push_lists(sql, viewer, dialect, AclSource::Today);
                }
            }
        }
    }
}

/// A record without a list is visible to everyone. An entry of any level admits those that it
/// names, and owners see their own records.
fn push_lists(sql: &mut Sql, viewer: &Viewer<'_>, dialect: Dialect, whose: AclSource) {
    let caller = viewer.caller;
    sql.push(" AND (");
    push_access(sql, whose);
    sql.push(" IS NULL OR ");
    if let Some(user) = &caller.user {
        match whose {
            AclSource::Queried => sql.push("t._owner_id="),
            AclSource::Today => sql.push("t._owner_now="),
            AclSource::Joined(number) => sql.alias('j', number).push("._owner_id="),
        };
        sql.bind(Arg::text(user.as_str())).push(" OR ");
    }
    match dialect {
        Dialect::Sqlite => {
            sql.push("EXISTS (SELECT 1 FROM json_each(");
            push_access(sql, whose);
            sql.push(") AS a WHERE a.value->>'public'");
        }
        // Other programs can write something by SQL that is not a list; it admits nobody.
        Dialect::Postgres(_) => {
            sql.push("EXISTS (SELECT 1 FROM jsonb_array_elements(CASE jsonb_typeof(");
            push_access(sql, whose);
            sql.push(") WHEN 'array' THEN ");
            push_access(sql, whose);
            sql.push(" END) AS a(value) WHERE a.value->>'public'='true'");
        }
    }
    if let Some(user) = &caller.user {
        sql.push(" OR a.value->>'user_id'=")
            .bind(Arg::text(user.as_str()));
    }
    if !caller.roles.is_empty() {
        let roles: Vec<_> = caller.roles.iter().collect();
        sql.push(" OR a.value->>'role'")
            .within(&roles, |role| role.as_str());
    }
    sql.push("))");
}

fn push_access(sql: &mut Sql, whose: AclSource) {
    match whose {
        AclSource::Queried => sql.push("t._access"),
        AclSource::Today => sql.push("t._access_now"),
        AclSource::Joined(number) => sql.alias('j', number).push("._access"),
    };
}
