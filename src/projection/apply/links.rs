//! Which account elsewhere logs in which user: tables derived from auth rows.

use crate::projection::conn::Conn;
use serde_json::Value as Json;
use skytrail_schema::event::{Link, Service, UserState};
use skytrail_schema::id::UserId;

use super::ApplyError;
use crate::projection::sql::{Arg, Sql};

/// Writes the accounts that are linked to a user, in place of the previous ones.
pub(super) async fn write(
    conn: &mut Conn<'_>,
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
        let sql = Sql::put(
            "_auth_provider",
            [("principal", Arg::text(principal))],
            [("user_id", Arg::text(user.as_str()))],
        );
        sql.execute(conn).await?;
    }
    Ok(())
}

fn oauth(user: &UserId, provider: &str, link: &Link) -> Sql {
    Sql::put(
        "_sso_oauth",
        [
            ("provider", Arg::text(provider)),
            ("principal_id", Arg::text(&link.principal)),
        ],
        [
            ("user_id", Arg::text(user.as_str())),
            ("profile", json(&link.profile)),
            ("_created_at", Arg::Time(link.linked_at)),
            ("_updated_at", Arg::Time(link.updated_at)),
        ],
    )
}

fn custom_token(user: &UserId, link: &Link) -> Sql {
    Sql::put(
        "_sso_custom_token",
        [("principal_id", Arg::text(&link.principal))],
        [
            ("user_id", Arg::text(user.as_str())),
            ("_created_at", Arg::Time(link.linked_at)),
        ],
    )
}

fn json(value: &Json) -> Arg {
    if value.is_null() {
        Arg::Null
    } else {
        Arg::Json(value.to_string())
    }
}
