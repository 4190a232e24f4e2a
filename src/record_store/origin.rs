//! Which log a record store was filled from.

use skytrail_actors::log::journal::Segments;
use skytrail_actors::store::RecordStore as _;

use crate::projection::{SqlStore, StoreOrigin};

/// Checks that a store is empty or was filled from this log, which ends at `head`; returns its
/// checkpoint.
pub(crate) async fn check_origin(
    store: &SqlStore,
    app: &str,
    (segments, head): (&Segments, u64),
) -> Result<u64, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let snapshot = store.load_snapshot().await;
    let checkpoint = snapshot.map_err(|error| failed(&error))?.checkpoint;
    let origin = store.origin().await.map_err(|error| failed(&error))?;
    match find_foreign((checkpoint, &origin), (segments, head))? {
        None => Ok(checkpoint),
        Some(foreign) => Err(foreign.advise(app)),
    }
}

/// A store that was not filled from this log; the text follows its name.
pub(crate) enum ForeignStore {
    /// A store of another log altogether.
    OfAnotherLog(String),
    /// A store of this log that went another way from some position on.
    OfAnotherPast(String),
}

impl ForeignStore {
    /// Describes the store.
    pub(crate) fn describe(&self, app: &str) -> String {
        let (Self::OfAnotherLog(what) | Self::OfAnotherPast(what)) = self;
        format!("the schema app_{app} in the database {what}")
    }

    /// Describes the store, and says what to do.
    pub(crate) fn advise(&self, app: &str) -> String {
        let what = self.describe(app);
        match self {
            Self::OfAnotherLog(_) => {
                format!("{what}; drop it, or set another APP_NAME or DATABASE_URL")
            }
            Self::OfAnotherPast(_) => format!(
                "{what}: a server that continued from there filled it, as after an earlier backup \
                 was restored. If that server is gone for good, run `skytrail rebuild`, which \
                 fills the schema from this log and keeps its content as app_{app}~old; otherwise \
                 set another APP_NAME or DATABASE_URL"
            ),
        }
    }
}

/// Finds out whether a store at a checkpoint was not filled from this log, which ends at `head`.
pub(crate) fn find_foreign(
    (checkpoint, origin): (u64, &StoreOrigin),
    (segments, head): (&Segments, u64),
) -> Result<Option<ForeignStore>, String> {
    let load = |position| {
        let read = segments.read(position, 1);
        read.map_err(|error| error.to_string())
    };
    let own = load(1)?.first().map(|commit| commit.id.to_string());
    if origin.log.is_some() && origin.log != own {
        return Ok(Some(ForeignStore::OfAnotherLog(format!(
            "is a store of another log (it is at {checkpoint}, the log below DATA_DIR ends at {head})"
        ))));
    }
    if checkpoint > head {
        return Ok(Some(ForeignStore::OfAnotherPast(format!(
            "is at {checkpoint}, and the log below DATA_DIR ends at {head}"
        ))));
    }
    let Some(last) = origin.last else {
        return Ok(None);
    };
    if load(checkpoint)?.iter().any(|commit| commit.time == last) {
        return Ok(None);
    }
    Ok(Some(ForeignStore::OfAnotherPast(format!(
        "has a different event at {checkpoint} from the log below DATA_DIR"
    ))))
}
