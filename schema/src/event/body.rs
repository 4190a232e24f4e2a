//! What can happen, and the numbers under which it is stored.

use super::{
    AccountLinked, AccountUnlinked, AssetState, AssetUpload, Blank, ChangeStamp, CreationRoles,
    DefaultAccess, DeviceState, Disabled, ErasureEnd, ErasureMark, ErasureRequest, FieldDeletion,
    FieldRename, Intervals, LogRestored, LoggedIn, NoDetails, PasswordRehashed, PasswordSet,
    Personal, PluginRegistration, RecordPatch, RecordState, RelationTarget, Retention, RoleFlags,
    SavedSubscription, TaskClaim, TaskEnd, TaskSchedule, TypeExtension, UserPatch, UserState,
};
use crate::field_access::FieldAccess;
use crate::subscription::SubscriptionKey;

/// What happened. It serializes to the payload; [`EventBody::kind`] is stored next to it.
#[derive(Clone, Debug, PartialEq)]
pub enum EventBody {
    /// A record was created; carries its full state.
    RecordCreated(RecordState),
    /// Some fields changed.
    RecordChanged(RecordPatch),
    /// Like `RecordChanged`, but carries the full state, so that reading the past folds at most
    /// [`SNAPSHOT_EVERY`] patches.
    RecordReplaced(RecordState),
    /// A record was deleted.
    RecordDeleted(ChangeStamp),
    /// A type was created or got fields.
    TypeExtended(TypeExtension),
    /// The access list of records that are saved without one was set.
    TypeDefaultAccessSet(DefaultAccess),
    /// The roles that may create records were set.
    TypeCreationRolesSet(CreationRoles),
    /// A field of a type was renamed, in all records that have it.
    TypeFieldRenamed(FieldRename),
    /// A field of a type was deleted, with its values in all records.
    TypeFieldDeleted(FieldDeletion),
    /// It was set whether the store keeps past versions of a type's records, each with the time for
    /// which it held.
    TypeIntervalsSet(Intervals),
    /// It was set how much of the past of a type's records is kept.
    TypeRetentionSet(Retention),
    /// It was set whether a type's records are personal: they belong to their owners and are erased
    /// with them.
    TypePersonalSet(Personal),
    /// A user's auth row was created.
    UserCreated(UserState),
    /// Parts of a user's auth row changed.
    UserChanged(UserPatch),
    /// A user got a new password.
    UserPasswordSet(PasswordSet),
    /// A user's password was rehashed with the current hash settings.
    UserPasswordRehashed(PasswordRehashed),
    /// A user was disabled.
    UserDisabled(Disabled),
    /// A disabled user was enabled again.
    UserEnabled(NoDetails),
    /// A user's auth row was removed, because the sign-up failed.
    UserRemoved(NoDetails),
    /// A user signed in.
    UserLoggedIn(LoggedIn),
    /// A user signed out.
    UserLoggedOut(NoDetails),
    /// An account elsewhere was linked to a user.
    AccountLinked(AccountLinked),
    /// An account elsewhere was unlinked from a user.
    AccountUnlinked(AccountUnlinked),
    /// A role was created or its flags changed.
    RoleDefined(RoleFlags),
    /// A relation to another user was created.
    RelationAdded(RelationTarget),
    /// A relation to another user was removed.
    RelationRemoved(RelationTarget),
    /// The field access rules were set, all of them.
    FieldAccessSet(FieldAccess),
    /// A file was announced, or uploaded without an announcement.
    AssetRegistered(AssetState),
    /// A file's bytes were stored, replacing any earlier ones.
    AssetUploaded(AssetUpload),
    /// A device was registered, for the first time or again; carries its full state.
    DeviceRegistered(DeviceState),
    /// A device no longer has a user.
    DeviceUnregistered(ChangeStamp),
    /// A device was deleted, with all its subscriptions.
    DeviceDeleted(ChangeStamp),
    /// A subscription was created, or replaced one with the same name.
    SubscriptionSaved(SavedSubscription),
    /// A subscription was deleted.
    SubscriptionDeleted(SubscriptionKey),
    /// A task's schedule was set or changed.
    TaskScheduled(TaskSchedule),
    /// A run of a task began.
    TaskClaimed(TaskClaim),
    /// A run of a task ended.
    TaskEnded(TaskEnd),
    /// A task was paused: it does not run until it is resumed.
    TaskPaused(NoDetails),
    /// A task was resumed.
    TaskResumed(NoDetails),
    /// A task's plugin registered without it. It has no schedule until the plugin registers it
    /// again.
    TaskDropped(NoDetails),
    /// The erasure of payloads from the log was requested.
    ErasureRequested(ErasureRequest),
    /// Payloads whose erasure was requested are gone, everywhere.
    ErasureFinished(ErasureEnd),
    /// A plugin's registration changed.
    PluginRegistered(PluginRegistration),
    /// The log was restored from a backup.
    LogRestored(LogRestored),
    /// An event whose payload was erased from the log. Only its kind and position are left.
    Erased(Blank),
}

/// A change whose version is a multiple of this number is stored with the full state.
pub const SNAPSHOT_EVERY: u32 = 32;

/// Defines the kinds: variant, stored number, name, current version of the payload.
macro_rules! kinds {
    ($($variant:ident = $number:literal, $name:literal, $version:literal;)*) => {
        /// The kind of an event, as stored next to its payload.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the variants of `EventBody` say what they mean")]
        pub enum EventKind {
            $($variant,)*
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
        }
    };
}

kinds! {
    RecordCreated = 1, "record.created", 1;
    RecordChanged = 2, "record.changed", 1;
    RecordReplaced = 3, "record.replaced", 1;
    RecordDeleted = 4, "record.deleted", 1;
    TypeExtended = 16, "type.extended", 1;
    TypeDefaultAccessSet = 17, "type.default_access_set", 1;
    TypeCreationRolesSet = 18, "type.creation_roles_set", 1;
    TypeFieldRenamed = 19, "type.field_renamed", 1;
    TypeFieldDeleted = 20, "type.field_deleted", 1;
    TypeIntervalsSet = 21, "type.intervals_set", 1;
    TypeRetentionSet = 22, "type.retention_set", 1;
    TypePersonalSet = 23, "type.personal_set", 1;
    FieldAccessSet = 24, "field_access.set", 1;
    UserCreated = 32, "user.created", 1;
    UserChanged = 33, "user.changed", 1;
    UserPasswordSet = 34, "user.password_set", 1;
    UserPasswordRehashed = 35, "user.password_rehashed", 1;
    UserDisabled = 36, "user.disabled", 1;
    UserEnabled = 37, "user.enabled", 1;
    UserRemoved = 38, "user.removed", 1;
    AccountLinked = 40, "account.linked", 1;
    AccountUnlinked = 41, "account.unlinked", 1;
    UserLoggedIn = 42, "user.logged_in", 1;
    UserLoggedOut = 43, "user.logged_out", 1;
    RoleDefined = 48, "role.defined", 1;
    RelationAdded = 64, "relation.added", 1;
    RelationRemoved = 65, "relation.removed", 1;
    DeviceRegistered = 80, "device.registered", 1;
    DeviceUnregistered = 81, "device.unregistered", 1;
    DeviceDeleted = 82, "device.deleted", 1;
    SubscriptionSaved = 84, "subscription.saved", 1;
    SubscriptionDeleted = 85, "subscription.deleted", 1;
    AssetRegistered = 96, "asset.registered", 1;
    AssetUploaded = 97, "asset.uploaded", 1;
    TaskScheduled = 112, "task.scheduled", 1;
    TaskClaimed = 113, "task.claimed", 1;
    TaskEnded = 114, "task.ended", 1;
    TaskPaused = 115, "task.paused", 1;
    TaskResumed = 116, "task.resumed", 1;
    TaskDropped = 117, "task.dropped", 1;
    ErasureRequested = 128, "erasure.requested", 1;
    ErasureFinished = 129, "erasure.finished", 1;
    PluginRegistered = 144, "plugin.registered", 1;
    LogRestored = 160, "log.restored", 1;
}
