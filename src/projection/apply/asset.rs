//! Events of files.

use skytrail_schema::event::{Event, EventBody};
use skytrail_schema::id::AssetName;
use sqlx::sqlite::SqliteConnection;

use super::ApplyError;
use crate::projection::sql::{Arg, Sql};

/// Registers a file, or notes the size of its bytes.
pub(super) async fn change(
    conn: &mut SqliteConnection,
    name: &AssetName,
    event: &Event,
) -> Result<(), ApplyError> {
    let mut sql = Sql::default();
    match &event.body {
        EventBody::AssetRegistered(state) => {
            sql.push("INSERT OR REPLACE INTO _asset (id, content_type, size, version) VALUES (");
            sql.bind(Arg::text(name.as_str())).push(",");
            sql.bind(Arg::text(state.content_type.as_str())).push(",");
            sql.bind(Arg::unsigned(state.size)).push(",");
            sql.bind(Arg::Int(event.version.into())).push(")");
        }
        EventBody::AssetUploaded(upload) => {
            sql.push("UPDATE _asset SET size=");
            sql.bind(Arg::unsigned(upload.size)).push(", version=");
            sql.bind(Arg::Int(event.version.into())).push(" WHERE id=");
            sql.bind(Arg::text(name.as_str()));
        }
        _ => return Err(ApplyError::fault("not an event of a file")),
    }
    sql.execute(conn).await?;
    Ok(())
}
