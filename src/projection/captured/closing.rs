//! Closes a store to other programs before it is left, and opens it again.

use crate::projection::conn::Conn;
use crate::projection::sql::Sql;

/// How often to try while somebody's transaction is open, a few seconds each.
const TRIES: u32 = 6;
/// PostgreSQL's code for a lock that was not available in time.
const NO_LOCK: &str = "55P03";

/// Keeps new rows out of the outbox from now on. Creating the trigger waits for all open
/// transactions that have put something there, and blocks those that arrive meanwhile.
pub(super) async fn close(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    for attempt in 1.. {
        match try_to_close(conn).await {
            Err(error) if attempt < TRIES && is_held_up(&error) => {
                tracing::warn!(
                    "another program's transaction has written records and does not end"
                );
            }
            done => return done,
        }
    }
    Ok(())
}

async fn try_to_close(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin_writing().await?;
    let sql = Sql::new("SET LOCAL lock_timeout='5s'");
    sql.execute(&mut tx.conn()).await?;
    if !is_closed(&mut tx.conn()).await? {
        let sql = Sql::new(
            "CREATE TRIGGER _closed BEFORE INSERT ON _outbox FOR EACH STATEMENT \
             EXECUTE FUNCTION _closed()",
        );
        sql.execute(&mut tx.conn()).await?;
    }
    tx.commit().await
}

/// Opens a store that was closed.
pub(super) async fn open(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    if is_closed(conn).await? {
        let sql = Sql::new("DROP TRIGGER _closed ON _outbox");
        sql.execute(conn).await?;
    }
    Ok(())
}

async fn is_closed(conn: &mut Conn<'_>) -> Result<bool, sqlx::Error> {
    let sql = Sql::new(
        "SELECT EXISTS (SELECT 1 FROM pg_trigger WHERE tgname='_closed' \
         AND tgrelid='_outbox'::regclass)",
    );
    let row = sql.fetch_optional(conn).await?;
    row.map_or(Ok(false), |row| row.flag(0))
}

fn is_held_up(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let code = error.and_then(|error| error.code());
    code.as_deref() == Some(NO_LOCK)
}
