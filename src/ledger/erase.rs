//! Forgetting dead letters of events that were erased: they name records and repeat what plugins said.

use async_trait::async_trait;
use skytrail_actors::erasure::{Holder, HolderError};
use skytrail_schema::positions::Positions;
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;

use super::SqlLedger;
use super::rows::signed;
use crate::projection::sqlite::erase::failed;

#[async_trait]
impl Holder for SqlLedger {
    fn name(&self) -> &'static str {
        "ledger of deliveries"
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
