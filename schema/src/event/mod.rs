//! Events: what happened, to which stream, by whom; and commits, the unit in which they become
//! durable.
//!
//! A [`NewCommit`] is what a decision wants to append. The log's committer turns it into a
//! [`Commit`] by giving it a position, a time and a place in the hash chain. Payloads are JSON
//! (sorted keys), so that a log outlives this program; [`crate::codec`] defines the bytes.

mod asset;
mod body;
mod commit;
mod device;
mod erasure;
mod filter;
mod link;
mod plugin;
mod record;
mod restore;
mod settings;
mod shown;
mod stream;
mod task;
mod user;

pub use asset::{AssetState, AssetUpload};
pub use body::{EventBody, EventKind, SNAPSHOT_EVERY};
pub use commit::{
    Actor, Commit, Event, NewCommit, NewEvent, OnBehalf, Origin, Provenance, SqlSource,
};
pub use device::{DeviceKind, DeviceState, SavedSubscription};
pub use erasure::{
    Blank, ErasureEnd, ErasureMark, ErasureRequest, ErasureScope, OwnedRecords, RefusedRecord,
};
pub use filter::{EventFilter, Kinds};
pub use link::{AccountLinked, AccountUnlinked, Link, Service};
pub use plugin::PluginRegistration;
pub use record::{ChangeStamp, RecordPatch, RecordState};
pub use restore::LogRestored;
pub use settings::{
    CreationRoles, DefaultAccess, FieldDeletion, FieldRename, Intervals, Personal, Retention,
    TypeExtension,
};
pub use shown::Shown;
pub use stream::Stream;
pub use task::{TaskClaim, TaskEnd, TaskSchedule, TaskTrigger};
pub use user::{
    Disabled, LoggedIn, NoDetails, PasswordRehashed, PasswordSet, PastPassword, RelationTarget,
    RoleFlags, UserPatch, UserState,
};
