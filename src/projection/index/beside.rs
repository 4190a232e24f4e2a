//! Access to a store's indexes from another process, or while no server is running.

use std::collections::BTreeMap;
use std::path::Path;

use skytrail_schema::id::TypeName;
use sqlx::{ConnectOptions as _, Connection as _};

use super::keeper::{carry_over, wish};
use super::table::{IndexEntry, load};
use crate::projection::conn::Conn;
use crate::projection::layout::TypeLayout;
use crate::projection::sqlite::{OpenError, StoreOptions, open_beside, reader_options, sums};
use crate::projection::{postgres, read};

/// Where a store is.
#[derive(Clone, Copy, Debug)]
pub enum StorePlace<'a> {
    /// In a file.
    File(&'a Path),
    /// In a server.
    Server {
        /// Its address.
        url: &'a str,
        /// The app's name.
        app: &'a str,
    },
}

/// Lists the indexes that queries or people asked for.
///
/// # Errors
/// The store does not open or cannot be read.
pub async fn list_indexes(place: StorePlace<'_>) -> Result<Vec<IndexEntry>, OpenError> {
    match place {
        StorePlace::File(path) => {
            let options = reader_options(path, &StoreOptions::default());
            let mut conn = options.connect().await?;
            let entries = load(&mut Conn::file(&mut conn)).await;
            conn.close().await?;
            Ok(entries?)
        }
        StorePlace::Server { url, app } => {
            let (mut conn, extensions) = postgres::open_beside(url, app).await?;
            let entries = load(&mut Conn::server(&mut conn, extensions)).await;
            conn.close().await?;
            Ok(entries?)
        }
    }
}

/// Lists the types of a store with their fields.
///
/// # Errors
/// The store does not open or cannot be read.
pub async fn list_fields(
    place: StorePlace<'_>,
) -> Result<BTreeMap<TypeName, Vec<String>>, OpenError> {
    let catalog = match place {
        StorePlace::File(path) => {
            let options = reader_options(path, &StoreOptions::default());
            let mut conn = options.connect().await?;
            let catalog = read::catalog(&mut Conn::file(&mut conn)).await;
            conn.close().await?;
            catalog?.0
        }
        StorePlace::Server { url, app } => {
            let (mut conn, extensions) = postgres::open_beside(url, app).await?;
            let catalog = read::catalog(&mut Conn::server(&mut conn, extensions)).await;
            conn.close().await?;
            catalog?.0
        }
    };
    let fields = |layout: &TypeLayout| {
        let columns = layout.table.iter().flat_map(|table| &table.columns);
        let mut fields: Vec<String> = columns.map(|column| column.field.clone()).collect();
        fields.sort();
        fields
    };
    let types = catalog.sorted().into_iter();
    Ok(types
        .map(|(name, layout)| (name.clone(), fields(layout)))
        .collect())
}

/// Sets what is wanted of an index: its wish, whether it is pinned, and why. The server follows
/// within seconds, or at its next start. Returns the entry as it is now.
///
/// # Errors
/// The store does not open or cannot be written.
pub async fn set_index(
    place: StorePlace<'_>,
    requested: IndexEntry,
) -> Result<IndexEntry, OpenError> {
    match place {
        StorePlace::File(path) => {
            let mut conn = open_beside(path).await?;
            let entry = wish(&mut Conn::file(&mut conn), requested).await;
            sums::merge(&mut conn, path).await?;
            conn.close().await?;
            Ok(entry?)
        }
        StorePlace::Server { url, app } => {
            let (mut conn, extensions) = postgres::open_beside(url, app).await?;
            let entry = wish(&mut Conn::server(&mut conn, extensions), requested).await;
            conn.close().await?;
            Ok(entry?)
        }
    }
}

/// Copies what is known of the indexes of the store at `old` to the one at `new`, which creates
/// them at its next upkeep.
///
/// # Errors
/// A store does not open, or cannot be read or written.
pub async fn carry_over_indexes(old: StorePlace<'_>, new: StorePlace<'_>) -> Result<(), OpenError> {
    let entries = list_indexes(old).await?;
    match new {
        StorePlace::File(path) => {
            let mut conn = open_beside(path).await?;
            let done = carry_over(&mut Conn::file(&mut conn), entries).await;
            sums::merge(&mut conn, path).await?;
            conn.close().await?;
            Ok(done?)
        }
        StorePlace::Server { url, app } => {
            let (mut conn, extensions) = postgres::open_beside(url, app).await?;
            let done = carry_over(&mut Conn::server(&mut conn, extensions), entries).await;
            conn.close().await?;
            Ok(done?)
        }
    }
}
