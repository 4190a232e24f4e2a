//! Which account elsewhere signs which user in: tables made from auth rows.

use serde_json::Value as Json;
use skytrail_schema::event::{Link, Service, UserState};
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;
use sqlx::sqlite::SqliteConnection;

use super::ApplyError;
use crate::projection::sql::{Arg, Sql};

/// Writes the accounts that are linked to a user, in place of those that were.
pub(super) async fn write(
    conn: &mut SqliteConnection,
    user: &UserId,
    state: &UserState,
) -> Result<(), ApplyError> {
    for delete in [
        "DELETE FROM _sso_oauth WHERE user_id=",
        "DELETE FROM _sso_custom_token WHERE user_id=",
        "DELETE FROM _auth_provider WHERE user_id=",
    ] {
        let mut sql = Sql::new(delete);
        sql.bind(Arg::text(user.as_str()));
        sql.execute(conn).await?;
    }
    for (service, link) in &state.links {
        let sql = match service {
            Service::OAuth(provider) => oauth(user, provider, link),
            Service::CustomToken => custom_token(user, link),
            // These are in `provider_info`.
            Service::Provider(_) => continue,
        };
        sql.execute(conn).await?;
    }
    for principal in state.provider_info.keys() {
        let mut sql =
            Sql::new("INSERT OR REPLACE INTO _auth_provider (principal, user_id) VALUES (");
        sql.bind(Arg::text(principal)).push(",");
        sql.bind(Arg::text(user.as_str())).push(")");
        sql.execute(conn).await?;
    }
    Ok(())
}

fn oauth(user: &UserId, provider: &str, link: &Link) -> Sql {
    let mut sql = Sql::new(
        "INSERT OR REPLACE INTO _sso_oauth \
         (user_id, provider, principal_id, profile, _created_at, _updated_at) VALUES (",
    );
    sql.bind(Arg::text(user.as_str())).push(",");
    sql.bind(Arg::text(provider)).push(",");
    sql.bind(Arg::text(&link.principal)).push(",");
    sql.bind(json(&link.profile)).push(",");
    sql.bind(time(link.linked_at)).push(",");
    sql.bind(time(link.updated_at)).push(")");
    sql
}

fn custom_token(user: &UserId, link: &Link) -> Sql {
    let mut sql = Sql::new(
        "INSERT OR REPLACE INTO _sso_custom_token (user_id, principal_id, _created_at) VALUES (",
    );
    sql.bind(Arg::text(user.as_str())).push(",");
    sql.bind(Arg::text(&link.principal)).push(",");
    sql.bind(time(link.linked_at)).push(")");
    sql
}

fn json(value: &Json) -> Arg {
    if value.is_null() {
        Arg::Null
    } else {
        Arg::Text(value.to_string())
    }
}

fn time(time: Timestamp) -> Arg {
    Arg::Int(time.micros())
}
