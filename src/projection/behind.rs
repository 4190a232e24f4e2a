//! How far a store was when it was found without erasures that the log has.
//!
//! Such a store was put back, or was not in use for a while. Once it has caught up with the log, what
//! was erased is no longer among its rows, but still in its files. Its earlier position says so until
//! the files have been rewritten, however often the server stops before that. The position is kept in
//! the store itself, so it moves and is put back with it: in `_lost`, which comparisons of stores
//! leave out, under the name of an erasure that does not exist.

use skytrail_actors::store::StoreError;
use skytrail_schema::event::Stream;
use sqlx::{ConnectOptions as _, Connection as _};
use uuid::Uuid;

use super::conn::Conn;
use super::index::StorePlace;
use super::postgres;
use super::sql::{Arg, Sql};
use super::sqlite::{OpenError, StoreOptions, reader_options};
use super::store::{SqlStore, open_writer_of};

/// Returns the value that identifies the row in `_lost`.
pub(super) fn name() -> Arg {
    Arg::text(Stream::Erasure(Uuid::nil()).to_string())
}

impl SqlStore {
    /// Returns the position that [`SqlStore::note_behind`] has kept.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) async fn behind_since(&self) -> Result<Option<u64>, StoreError> {
        let mut reader = self.reader().await?;
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let position = load(&mut conn).await;
        position.map_err(|error| self.failed(error))
    }

    /// Keeps the position until the next erasure has rewritten the store's files. An earlier
    /// position stays.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) async fn note_behind(&self, position: u64) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let writer = open_writer_of(&mut writer).map_err(|error| self.failed(error))?;
        let connected = self.reconnect(writer).await;
        connected.map_err(|error| self.failed(error))?;
        let backend = writer.backend();
        let noted = async {
            let (mut conn, _) = writer.conn()?;
            insert(&mut conn, position).await
        };
        let noted = self.served_by(backend.as_ref(), noted).await;
        if let Err(error) = &noted {
            self.renew(writer, error).await;
        }
        noted.map_err(|error| self.failed(error))
    }
}

/// Returns the position up to which a store that no server uses lacks no erasure: where it is, or was
/// when it was found without some.
///
/// # Errors
/// The store does not open or cannot be read.
pub(crate) async fn whole_until(place: StorePlace<'_>) -> Result<u64, OpenError> {
    match place {
        StorePlace::File(path) => {
            let options = reader_options(path, &StoreOptions::default());
            let mut conn = options.connect().await?;
            let position = load_whole_until(&mut Conn::file(&mut conn)).await;
            conn.close().await?;
            Ok(position?)
        }
        StorePlace::Server { url, app } => {
            let (mut conn, extensions) = postgres::open_beside(url, app).await?;
            let position = load_whole_until(&mut Conn::server(&mut conn, extensions)).await;
            conn.close().await?;
            Ok(position?)
        }
    }
}

async fn load_whole_until(conn: &mut Conn<'_>) -> Result<u64, sqlx::Error> {
    let row = Sql::new("SELECT position FROM _checkpoint");
    let row = row.fetch_optional(conn).await?;
    let position = row.ok_or(sqlx::Error::RowNotFound)?.unsigned(0)?;
    let kept = load(conn).await?;
    Ok(kept.map_or(position, |kept| kept.min(position)))
}

async fn load(conn: &mut Conn<'_>) -> Result<Option<u64>, sqlx::Error> {
    let mut sql = Sql::new("SELECT place FROM _lost WHERE stream=");
    sql.bind(name());
    let row = sql.fetch_optional(conn).await?;
    row.map(|row| row.unsigned(0)).transpose()
}

async fn insert(conn: &mut Conn<'_>, position: u64) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("INSERT INTO _lost (stream, place) SELECT ");
    sql.bind(name()).push(",").bind(Arg::unsigned(position));
    sql.push(" WHERE NOT EXISTS (SELECT 1 FROM _lost WHERE stream=")
        .bind(name())
        .push(")");
    sql.execute(conn).await.map(drop)
}

/// Forgets the position: the files have been rewritten.
pub(super) async fn forget(conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("DELETE FROM _lost WHERE stream=");
    sql.bind(name());
    sql.execute(conn).await.map(drop)
}
