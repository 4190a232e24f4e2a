//! Reads scheduled tasks.

use crate::projection::conn::{Conn, Row};
use skytrail_actors::store::StoreError;
use skytrail_actors::task::TaskState;
use skytrail_schema::id::TaskId;

use super::sql::Sql;
use super::store::SqlStore;

impl SqlStore {
    /// Loads all tasks that ever existed.
    ///
    /// # Errors
    /// The store failed.
    pub async fn load_tasks(&self) -> Result<Vec<(TaskId, TaskState)>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let loaded = tasks(&mut conn).await;
        loaded.map_err(|error| self.failed(error))
    }
}

async fn tasks(conn: &mut Conn<'_>) -> Result<Vec<(TaskId, TaskState)>, sqlx::Error> {
    let task = |row: &Row| {
        let id = TaskId::new(&*row.text(0)?, &*row.text(1)?);
        Ok((id, row.json(2)?))
    };
    let sql = Sql::new("SELECT plugin, name, state FROM _task ORDER BY plugin, name");
    sql.fetch_all(conn).await?.iter().map(task).collect()
}
