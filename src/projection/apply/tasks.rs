//! Applies events of scheduled tasks.

use crate::projection::conn::Conn;
use skytrail_actors::task::TaskState;
use skytrail_schema::event::Event;
use skytrail_schema::id::TaskId;
use skytrail_schema::time::Timestamp;

use super::ApplyError;
use crate::projection::sql::{Arg, Sql};

/// Folds an event into the task's row; `time` is its commit's.
pub(super) async fn change(
    conn: &mut Conn<'_>,
    id: &TaskId,
    event: &Event,
    time: Timestamp,
) -> Result<(), ApplyError> {
    let mut sql = Sql::new("SELECT state FROM _task WHERE plugin=");
    sql.bind(Arg::text(&*id.plugin)).push(" AND name=");
    sql.bind(Arg::text(&*id.name));
    let mut state = match sql.fetch_all(conn).await?.first() {
        Some(row) => row.json(0)?,
        None => TaskState::default(),
    };
    state.apply(event, time);
    let text = serde_json::to_string(&state).map_err(unreadable)?;
    let key = [
        ("plugin", Arg::text(&*id.plugin)),
        ("name", Arg::text(&*id.name)),
    ];
    let sql = Sql::put("_task", key, [("state", Arg::Text(text))]);
    sql.execute(conn).await?;
    Ok(())
}

fn unreadable(error: serde_json::Error) -> ApplyError {
    ApplyError::Sql(sqlx::Error::Decode(error.into()))
}
