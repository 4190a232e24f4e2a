//! Reading scheduled tasks.

use async_trait::async_trait;
use skytrail_actors::store::StoreError;
use skytrail_actors::task::{TaskState, TaskStore};
use skytrail_schema::id::TaskId;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::sql::Sql;
use super::store::SqlStore;

#[async_trait]
impl TaskStore for SqlStore {
    async fn load_tasks(&self) -> Result<Vec<(TaskId, TaskState)>, StoreError> {
        let mut reader = self.reader().await?;
        let conn = reader.conn().map_err(|error| self.failed(error))?;
        let loaded = tasks(conn).await;
        loaded.map_err(|error| self.failed(error))
    }
}

async fn tasks(conn: &mut SqliteConnection) -> Result<Vec<(TaskId, TaskState)>, sqlx::Error> {
    let task = |row: &SqliteRow| {
        let id = TaskId::new(row.try_get::<&str, _>(0)?, row.try_get::<&str, _>(1)?);
        let state = serde_json::from_str(row.try_get(2)?);
        let state = state.map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((id, state))
    };
    let sql = Sql::new("SELECT plugin, name, state FROM _task ORDER BY plugin, name");
    sql.fetch_all(conn).await?.iter().map(task).collect()
}
