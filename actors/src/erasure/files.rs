//! The files that erased events name, or that an erased user uploaded: they are erased as well, unless
//! something else names them.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::asset::see_assets;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, EventKind, NewEvent, Stream};
use skytrail_schema::id::{AssetName, UserId};
use skytrail_schema::positions::Positions;

use super::{Eraser, HolderError};
use crate::log::seek::{load_event, load_events, load_page};

/// How many events are read at once.
const BATCH_SIZE: usize = 1000;

/// Removes files for good.
#[async_trait]
pub trait FileRemover: Send + Sync + 'static {
    /// Removes files, so that no byte of them is left. Files that are already gone are no error.
    ///
    /// # Errors
    /// See [`HolderError`]; the call is repeated later.
    async fn remove(&self, names: &[AssetName]) -> Result<(), HolderError>;
}

/// What an erasure removes files for.
#[derive(Clone, Debug, Default)]
pub(super) struct FilesSought {
    /// Erased events: the files that they name.
    pub(super) naming: Vec<u64>,
    /// Files that an erased user uploaded.
    pub(super) uploaded: BTreeSet<AssetName>,
}

impl FromIterator<u64> for FilesSought {
    fn from_iter<I: IntoIterator<Item = u64>>(naming: I) -> Self {
        Self {
            naming: naming.into_iter().collect(),
            uploaded: BTreeSet::new(),
        }
    }
}

/// Files that erased events named, or that an erased user uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NamedFiles {
    /// Those that are erased as well.
    #[serde(rename = "files", skip_serializing_if = "BTreeSet::is_empty")]
    pub erased: BTreeSet<AssetName>,
    /// Those that stay: something else names them, or did in a past that is kept.
    #[serde(rename = "kept_files", skip_serializing_if = "BTreeSet::is_empty")]
    pub kept: BTreeSet<AssetName>,
    /// How many stay.
    #[serde(rename = "num_kept_files", skip_serializing_if = "is_zero")]
    pub num_kept: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl NamedFiles {
    /// Adds the files of another erasure, which may have erased some that were kept so far.
    pub(super) fn add(&mut self, other: Self) {
        self.erased.extend(other.erased);
        self.kept.extend(other.kept);
        self.kept.retain(|name| !self.erased.contains(name));
    }

    /// Returns what the caller is told: others than the master key learn only how many files stay.
    /// Whoever knows a file's name can name it in a record and read it, and what names these files
    /// may be private.
    pub(super) fn told_to(mut self, caller: &Caller) -> Self {
        self.num_kept = self.kept.len();
        if !caller.is_master() {
            self.kept.clear();
        }
        self
    }
}

impl Eraser {
    /// Sorts the files that are sought into erased and kept ones. The events that name them are among
    /// `positions`, which are to be erased; `added` are events that the same commit adds. Anything
    /// that names one of the files later conflicts with an erasure that rests on this.
    pub(super) async fn files_of(
        &self,
        sought: FilesSought,
        positions: &Positions,
        added: &[NewEvent],
        until: u64,
    ) -> Result<NamedFiles, ApiError> {
        let mut named = sought.uploaded;
        for position in sought.naming {
            let (_, event) = load_event(&*self.env.log, position).await?;
            see_files(&event.body, &mut |name| {
                named.insert(AssetName::from(name));
            });
        }
        let names: Vec<AssetName> = named.into_iter().collect();
        let loaded = self.env.assets.load(&names).await?;
        let erased: BTreeSet<AssetName> = loaded.into_keys().collect();
        let mut kept = self.named_elsewhere(&erased, positions, until).await?;
        for event in added {
            see_files(&event.body, &mut |name| {
                kept.extend(erased.get(name).cloned());
            });
        }
        let mut files = NamedFiles {
            erased,
            kept,
            num_kept: 0,
        };
        files.erased.retain(|name| !files.kept.contains(name));
        Ok(files)
    }

    /// Finds the files that a user announced or uploaded and that are not erased.
    pub(super) async fn uploaded_by(
        &self,
        user: &UserId,
        until: u64,
    ) -> Result<BTreeSet<AssetName>, ApiError> {
        let kinds = [EventKind::AssetRegistered, EventKind::AssetUploaded];
        let positions = self.env.store.list_positions_of_user(user, &kinds, until);
        let positions = positions.await?;
        let mut names = BTreeSet::new();
        for some in positions.chunks(BATCH_SIZE) {
            for (commit, event) in load_events(&*self.env.log, some).await? {
                if let (Stream::Asset(name), Some(by)) = (event.stream, &commit.actor.user)
                    && by == user
                {
                    names.insert(name);
                }
            }
        }
        let names: Vec<AssetName> = names.into_iter().collect();
        let known = self.env.assets.load(&names).await?;
        Ok(known.into_keys().collect())
    }

    /// Finds which files other events name. No file is named before it is known, so the log is read
    /// from there on.
    async fn named_elsewhere(
        &self,
        names: &BTreeSet<AssetName>,
        erased: &Positions,
        until: u64,
    ) -> Result<BTreeSet<AssetName>, ApiError> {
        let (mut found, mut from) = (BTreeSet::new(), u64::MAX);
        for name in names {
            let of_file = Stream::Asset(name.clone());
            let first = self.env.streams().begins_from(&of_file, until).await?;
            from = from.min(first.unwrap_or(1));
        }
        while from <= until && found.len() < names.len() {
            let (commits, last) = load_page(&*self.env.log, from, BATCH_SIZE).await?;
            from = last + 1;
            let events = commits.iter().flat_map(|commit| &commit.events);
            for event in events.filter(|event| !erased.contains(event.position)) {
                see_files(&event.body, &mut |name| {
                    found.extend(names.get(name).cloned());
                });
            }
        }
        Ok(found)
    }
}

/// Calls `see` with the name of every file in the payload of a record's event.
pub(super) fn see_files(body: &EventBody, see: &mut dyn FnMut(&str)) {
    let mut look = |value: &Json| see_assets(value, see);
    match body {
        EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => {
            state.fields.values().for_each(&mut look);
        }
        EventBody::RecordChanged(patch) => patch.set.values().for_each(&mut look),
        _ => {}
    }
}
