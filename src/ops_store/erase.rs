//! Erasure in the ops store. Dead letters of erased events go, since they name records and repeat
//! what plugins said. For erased users, their refused logins and pending pushes go as well.

use async_trait::async_trait;
use skytrail_actors::erasure::{Holder, HolderError};
use skytrail_schema::event::ErasureScope;
use skytrail_schema::id::UserId;
use skytrail_schema::positions::Positions;
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;

use super::OpsStore;
use super::rows::signed;
use crate::projection::sqlite::erase::failed;

#[async_trait]
impl Holder for OpsStore {
    fn name(&self) -> &'static str {
        "ops.sqlite"
    }

    async fn forget_beside(&self, scopes: &[ErasureScope]) -> Result<(), HolderError> {
        let users = scopes.iter().filter_map(|scope| match scope {
            ErasureScope::User(user) => Some(user.clone()),
            _ => None,
        });
        let users: Vec<UserId> = users.collect();
        let mut connection = self.connection.lock().await;
        // Refusals that were counted before and are written later belong to the user, too.
        self.erased.lock().extend(users.iter().cloned());
        let closed = || HolderError::Failed("it is closed".to_owned());
        let connection = connection.as_mut().ok_or_else(closed)?;
        for user in users {
            for statement in [
                "DELETE FROM refusal WHERE user = ?",
                "DELETE FROM waiting_push WHERE user = ?",
            ] {
                let row = sqlx::query(statement).bind(user.as_str());
                row.execute(&mut *connection).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn forget(&self, positions: &Positions) -> Result<(), HolderError> {
        let mut connection = self.connection.lock().await;
        let closed = || HolderError::Failed("it is closed".to_owned());
        let connection = connection.as_mut().ok_or_else(closed)?;
        scrub(connection, positions).await.map_err(failed)
    }
}

async fn scrub(conn: &mut SqliteConnection, positions: &Positions) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin().await?;
    for (first, last) in positions.runs() {
        sqlx::query("DELETE FROM dead_letter WHERE position BETWEEN ? AND ?")
            .bind(signed(*first))
            .bind(signed(*last))
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    sqlx::query("VACUUM").execute(&mut *conn).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(conn)
        .await?;
    Ok(())
}
