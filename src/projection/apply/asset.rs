//! Applies events of files.

use crate::projection::conn::Conn;
use skytrail_schema::event::{Event, EventBody};
use skytrail_schema::id::AssetName;

use super::ApplyError;
use crate::projection::sql::{Arg, Sql};

/// Registers a file, or stores the size of its bytes.
pub(super) async fn change(
    conn: &mut Conn<'_>,
    name: &AssetName,
    event: &Event,
) -> Result<(), ApplyError> {
    let sql = match &event.body {
        EventBody::AssetRegistered(state) => Sql::put(
            "_asset",
            [("id", Arg::text(name.as_str()))],
            [
                ("content_type", Arg::text(state.content_type.as_str())),
                ("size", Arg::unsigned(state.size)),
                ("version", Arg::Int(event.version.into())),
            ],
        ),
        EventBody::AssetUploaded(upload) => {
            let mut sql = Sql::new("UPDATE _asset SET size=");
            sql.bind(Arg::unsigned(upload.size)).push(", version=");
            sql.bind(Arg::Int(event.version.into())).push(" WHERE id=");
            sql.bind(Arg::text(name.as_str()));
            sql
        }
        _ => return Err(ApplyError::fault("not an event of a file")),
    };
    sql.execute(conn).await?;
    Ok(())
}
