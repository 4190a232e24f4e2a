//! Which records a caller may see, as a condition.

use skytrail_actors::store::Asker;
use skytrail_schema::query::Scope;

use crate::projection::sql::{Arg, Sql};

/// Adds what a condition may look into behind a reference: nothing that the caller must not see
/// himself. The public database and, in a private one, that one.
pub(super) fn push_joined(sql: &mut Sql, asker: &Asker<'_>, number: usize) {
    if asker.caller.is_master() {
        return;
    }
    sql.push(" AND (");
    if let Scope::Private(user) = asker.scope {
        sql.alias('j', number).push("._database_id=");
        sql.bind(Arg::text(user.as_str())).push(" OR ");
    }
    sql.alias('j', number).push("._database_id=''");
    push_lists(sql, asker, Some(number));
    sql.push(")");
}

/// Adds the database and, in the public one, the access lists to a condition on `t`.
pub(super) fn push(sql: &mut Sql, asker: &Asker<'_>) {
    match asker.scope {
        Scope::Union => {
            sql.push("1=1");
        }
        Scope::Private(user) => {
            sql.push("t._database_id=").bind(Arg::text(user.as_str()));
        }
        Scope::Public => {
            sql.push("t._database_id=''");
            if !asker.caller.is_master() {
                push_lists(sql, asker, None);
            }
        }
    }
}

/// No list lets everyone in, an entry of any level those whom it names, and the owner may always.
fn push_lists(sql: &mut Sql, asker: &Asker<'_>, join: Option<usize>) {
    let caller = asker.caller;
    sql.push(" AND (");
    push_column(sql, join, "._access IS NULL OR ");
    if let Some(user) = &caller.user {
        push_column(sql, join, "._owner_id=");
        sql.bind(Arg::text(user.as_str())).push(" OR ");
    }
    sql.push("EXISTS (SELECT 1 FROM json_each(");
    push_column(sql, join, "._access");
    sql.push(") AS a WHERE a.value->>'public'");
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

/// Adds a column of the queried table, or of one that is joined.
fn push_column(sql: &mut Sql, join: Option<usize>, column: &'static str) {
    match join {
        None => sql.push("t"),
        Some(number) => sql.alias('j', number),
    };
    sql.push(column);
}
