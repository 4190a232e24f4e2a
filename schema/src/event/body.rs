//! What can happen, and the numbers under which it is stored.

use super::{
    AccountLinked, AccountUnlinked, AssetState, AssetUpload, Blank, ChangeStamp, CreationRoles,
    DefaultAccess, DeviceState, Disabled, ErasureEnd, ErasureMark, ErasureRequest, FieldDeletion,
    FieldRename, Intervals, LogRestored, LoggedIn, NoDetails, PasswordRehashed, PasswordSet,
    Personal, PluginRegistration, RecordPatch, RecordState, RelationTarget, Retention, RoleFlags,
    SavedSubscription, TaskClaim, TaskEnd, TaskSchedule, TypeExtension, UserPatch, UserState,
};
use crate::codec::{CodecError, Payload, Stored};
use crate::field_access::FieldAccess;
use crate::id::UserId;
use crate::subscription::SubscriptionKey;

/// A change whose version is a multiple of this number is stored with the full state.
pub const SNAPSHOT_EVERY: u32 = 32;

/// Defines what can happen: variant and payload, stored number, name, current version of the
/// payload.
macro_rules! kinds {
    ($(
        $(#[$doc:meta])*
        $variant:ident($payload:ty) = $number:literal, $name:literal, $version:literal;
    )*) => {
        /// What happened. It serializes to the payload; [`EventBody::kind`] is stored next to it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum EventBody {
            $($(#[$doc])* $variant($payload),)*
            /// An event whose payload was erased from the log. Only its kind and position are left.
            Erased(Blank),
        }

        /// The kind of an event, as stored next to its payload.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventKind {
            $($(#[$doc])* $variant,)*
        }

        impl EventKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the stored number.
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }

            /// Returns the kind with this stored number.
            pub fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Returns the name that people read, for example `record.created`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Returns the version of the payload that this program writes.
            pub fn schema_version(self) -> u16 {
                match self {
                    $(Self::$variant => $version,)*
                }
            }
        }

        impl EventBody {
            /// Returns the erasure that removed the event, if it was erased: the inner `None` means
            /// that the erasure was not looked up.
            pub fn erased(&self) -> Option<Option<&ErasureMark>> {
                match self {
                    Self::Erased(blank) => Some(blank.by.as_deref()),
                    _ => None,
                }
            }

            /// Returns the kind; for an erased event, that of the original.
            pub fn kind(&self) -> EventKind {
                match self {
                    $(Self::$variant(_) => EventKind::$variant,)*
                    Self::Erased(blank) => blank.kind,
                }
            }

            /// Encodes the payload; `user` is the commit's user.
            pub(crate) fn encode(&self, user: Option<&UserId>) -> Result<Vec<u8>, CodecError> {
                match self {
                    $(Self::$variant(payload) => payload.encode(user),)*
                    Self::Erased(_) => Err(CodecError::Malformed("payload")),
                }
            }

            /// Decodes a payload, upgrading older versions; `user` is the commit's user.
            pub(crate) fn decode(
                stored: &Stored<'_>,
                user: Option<&UserId>,
            ) -> Result<Self, CodecError> {
                Ok(match stored.kind {
                    $(EventKind::$variant => Self::$variant(Payload::decode(stored, user)?),)*
                })
            }
        }
    };
}

kinds! {
    /// A record was created; carries its full state.
    RecordCreated(RecordState) = 1, "record.created", 1;
    /// Some fields changed.
    RecordChanged(RecordPatch) = 2, "record.changed", 1;
    /// Like `RecordChanged`, but carries the full state, so that reading the past folds at most
    /// [`SNAPSHOT_EVERY`] patches.
    RecordReplaced(RecordState) = 3, "record.replaced", 1;
    /// A record was deleted.
    RecordDeleted(ChangeStamp) = 4, "record.deleted", 1;
    /// A type was created or got fields.
    TypeExtended(TypeExtension) = 16, "type.extended", 1;
    /// The access list of records that are saved without one was set.
    TypeDefaultAccessSet(DefaultAccess) = 17, "type.default_access_set", 1;
    /// The roles that may create records were set.
    TypeCreationRolesSet(CreationRoles) = 18, "type.creation_roles_set", 1;
    /// A field of a type was renamed, in all records that have it.
    TypeFieldRenamed(FieldRename) = 19, "type.field_renamed", 1;
    /// A field of a type was deleted, with its values in all records.
    TypeFieldDeleted(FieldDeletion) = 20, "type.field_deleted", 1;
    /// It was set whether the store keeps past versions of a type's records, each with the time for
    /// which it held.
    TypeIntervalsSet(Intervals) = 21, "type.intervals_set", 1;
    /// It was set how much of the past of a type's records is kept.
    TypeRetentionSet(Retention) = 22, "type.retention_set", 1;
    /// It was set whether a type's records are personal: they belong to their owners and are erased
    /// with them.
    TypePersonalSet(Personal) = 23, "type.personal_set", 1;
    /// The field access rules were set, all of them.
    FieldAccessSet(FieldAccess) = 24, "field_access.set", 1;
    /// A user's auth row was created.
    UserCreated(UserState) = 32, "user.created", 1;
    /// Parts of a user's auth row changed.
    UserChanged(UserPatch) = 33, "user.changed", 1;
    /// A user got a new password.
    UserPasswordSet(PasswordSet) = 34, "user.password_set", 1;
    /// A user's password was rehashed with the current hash settings.
    UserPasswordRehashed(PasswordRehashed) = 35, "user.password_rehashed", 1;
    /// A user was disabled.
    UserDisabled(Disabled) = 36, "user.disabled", 1;
    /// A disabled user was enabled again.
    UserEnabled(NoDetails) = 37, "user.enabled", 1;
    /// A user's auth row was removed, because the sign-up failed.
    UserRemoved(NoDetails) = 38, "user.removed", 1;
    /// An account elsewhere was linked to a user.
    AccountLinked(AccountLinked) = 40, "account.linked", 1;
    /// An account elsewhere was unlinked from a user.
    AccountUnlinked(AccountUnlinked) = 41, "account.unlinked", 1;
    /// A user signed in.
    UserLoggedIn(LoggedIn) = 42, "user.logged_in", 1;
    /// A user signed out.
    UserLoggedOut(NoDetails) = 43, "user.logged_out", 1;
    /// A role was created or its flags changed.
    RoleDefined(RoleFlags) = 48, "role.defined", 1;
    /// A relation to another user was created.
    RelationAdded(RelationTarget) = 64, "relation.added", 1;
    /// A relation to another user was removed.
    RelationRemoved(RelationTarget) = 65, "relation.removed", 1;
    /// A device was registered, for the first time or again; carries its full state.
    DeviceRegistered(DeviceState) = 80, "device.registered", 1;
    /// A device no longer has a user.
    DeviceUnregistered(ChangeStamp) = 81, "device.unregistered", 1;
    /// A device was deleted, with all its subscriptions.
    DeviceDeleted(ChangeStamp) = 82, "device.deleted", 1;
    /// A subscription was created, or replaced one with the same name.
    SubscriptionSaved(SavedSubscription) = 84, "subscription.saved", 1;
    /// A subscription was deleted.
    SubscriptionDeleted(SubscriptionKey) = 85, "subscription.deleted", 1;
    /// A file was announced, or uploaded without an announcement.
    AssetRegistered(AssetState) = 96, "asset.registered", 1;
    /// A file's bytes were stored, replacing any earlier ones.
    AssetUploaded(AssetUpload) = 97, "asset.uploaded", 1;
    /// A task's schedule was set or changed.
    TaskScheduled(TaskSchedule) = 112, "task.scheduled", 1;
    /// A run of a task began.
    TaskClaimed(TaskClaim) = 113, "task.claimed", 1;
    /// A run of a task ended.
    TaskEnded(TaskEnd) = 114, "task.ended", 1;
    /// A task was paused: it does not run until it is resumed.
    TaskPaused(NoDetails) = 115, "task.paused", 1;
    /// A task was resumed.
    TaskResumed(NoDetails) = 116, "task.resumed", 1;
    /// A task's plugin registered without it. It has no schedule until the plugin registers it
    /// again.
    TaskDropped(NoDetails) = 117, "task.dropped", 1;
    /// The erasure of payloads from the log was requested.
    ErasureRequested(ErasureRequest) = 128, "erasure.requested", 1;
    /// Payloads whose erasure was requested are gone, everywhere.
    ErasureFinished(ErasureEnd) = 129, "erasure.finished", 1;
    /// A plugin's registration changed.
    PluginRegistered(PluginRegistration) = 144, "plugin.registered", 1;
    /// The log was restored from a backup.
    LogRestored(LogRestored) = 160, "log.restored", 1;
}
