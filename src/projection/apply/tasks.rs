//! Events of scheduled tasks.

use skytrail_actors::task::TaskState;
use skytrail_schema::event::Event;
use skytrail_schema::id::TaskId;
use skytrail_schema::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::ApplyError;
use crate::projection::sql::{Arg, Sql};

/// Folds an event into the task's row; `time` is its commit's.
pub(super) async fn change(
    conn: &mut SqliteConnection,
    id: &TaskId,
    event: &Event,
    time: Timestamp,
) -> Result<(), ApplyError> {
    let mut sql = Sql::new("SELECT state FROM _task WHERE plugin=");
    sql.bind(Arg::text(&*id.plugin)).push(" AND name=");
    sql.bind(Arg::text(&*id.name));
    let mut state = match sql.fetch_all(conn).await?.first() {
        Some(row) => serde_json::from_str(row.try_get(0)?).map_err(unreadable)?,
        None => TaskState::default(),
    };
    state.apply(event, time);
    let text = serde_json::to_string(&state).map_err(unreadable)?;
    let mut sql = Sql::new("INSERT OR REPLACE INTO _task (plugin, name, state) VALUES (");
    sql.bind(Arg::text(&*id.plugin)).push(",");
    sql.bind(Arg::text(&*id.name)).push(",");
    sql.bind(Arg::Text(text)).push(")");
    sql.execute(conn).await?;
    Ok(())
}

fn unreadable(error: serde_json::Error) -> ApplyError {
    ApplyError::Sql(sqlx::Error::Decode(error.into()))
}
