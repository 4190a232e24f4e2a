//! The record store's port: the queryable projection of the log.
//!
//! The store is disposable: everything in it can be made again from the log. Only the projector
//! writes it, through [`RecordStore::apply`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use skytrail_schema::acl::Level;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{
    AssetState, Commit, EventKind, RoleFlags, Service, Stream, UserState,
};
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::{AssetName, Database, RecordId, RecordKey, RoleName, TypeName, UserId};
use skytrail_schema::predicate::{Direction, Relation};
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::record::{Head, Record};
use skytrail_schema::types::TypeDefinition;
use skytrail_schema::value::Value;

/// Which records refer to some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Referrers {
    /// For each record that others refer to, one of those others.
    pub others: HashMap<RecordId, RecordId>,
    /// For each record, those among the records themselves that refer to it, including itself.
    pub among: HashMap<RecordId, Vec<RecordId>>,
}

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The query makes no sense for the type's fields; code and message are for the client.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The database is unavailable or too slow. Nothing is lost: the log has everything, and the
    /// store catches up when the database is back. The cause is only for the server's own log.
    #[error("record store not available: {cause}")]
    Unavailable {
        /// What clients are told.
        why: UnavailableReason,
        /// The database's error message.
        cause: String,
    },
    /// Stored data differs from what was written. The store must be made again from the log.
    #[error("record store damaged: {0}")]
    Damaged(String),
    /// The database failed; the text is only for the server's own log.
    #[error("record store failed: {0}")]
    Failed(String),
}

/// Why a database is not available at present, as far as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnavailableReason {
    /// It cannot be reached, or is starting or stopping.
    Unreachable,
    /// It did not answer in time.
    Slow,
    /// Other queries kept it busy for too long.
    Busy,
    /// Another program holds a lock there.
    Locked,
    /// It accepts no more connections.
    Crowded,
    /// It has no space left.
    Full,
    /// It accepts no writes: it is a standby.
    ReadOnly,
    /// It does not let the server write: a permission, a table or a column was taken away.
    Closed,
    /// It does not let the server in: its role, its password or the right to connect was changed.
    Barred,
    /// It does not let the server read: a permission was taken away.
    Unreadable,
    /// It lacks tables or columns of the server: they were dropped or renamed.
    Missing,
    /// Others have changed its tables, so that it no longer accepts what the log has.
    Altered,
    /// It does not accept what the log has, for a reason that an operator has to look into.
    Failing,
    /// It has lost data, which is being applied again.
    Behind,
    /// Another server uses it, or has filled it.
    Taken,
}

impl UnavailableReason {
    /// Returns the message for clients.
    pub fn message(self) -> &'static str {
        match self {
            Self::Unreachable => "the database cannot be reached, try again",
            Self::Slow => "the database takes too long to answer, try again",
            Self::Busy => "other queries keep the database busy, try again",
            Self::Locked => "another program holds a lock in the database, try again",
            Self::Crowded => "the database has no free connection, try again",
            Self::Full => "the database has no space left, try again later",
            Self::ReadOnly => "the database accepts no writes at present, try again",
            Self::Closed => "the database does not let the server write, try again later",
            Self::Barred => {
                "the database does not let the server in: its role needs the right to log in and \
                 to connect, try again later"
            }
            Self::Unreadable => {
                "the database does not let the server read: its role needs the right to, try \
                 again later"
            }
            Self::Missing => {
                "the database lacks tables of the server: they have to be restored, or the server \
                 restarted, try again later"
            }
            Self::Altered => {
                "others have changed the tables of the database, which no longer accepts \
                 events, try again later"
            }
            Self::Failing => "the database does not accept what was saved, try again later",
            Self::Behind => "the database is being brought up to date, try again",
            Self::Taken => "the database is in use by another server, try again later",
        }
    }
}

impl StoreError {
    /// Builds the error for a database that is not available at present.
    pub fn unavailable(why: UnavailableReason, cause: impl Into<String>) -> Self {
        let cause = cause.into();
        Self::Unavailable { why, cause }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(error) => error,
            StoreError::Unavailable { why, cause } => {
                tracing::warn!(cause, "record store not available");
                Self::new(Code::UnexpectedUnableToOpenDatabase, why.message())
                    .with_info("retry_after_ms", serde_json::json!(1000))
            }
            StoreError::Failed(cause) | StoreError::Damaged(cause) => {
                tracing::error!(cause, "record store failed");
                Self::new(Code::UnexpectedError, "the record store failed")
            }
        }
    }
}

/// The result of a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryAnswer {
    /// The records of the page, in order.
    pub records: Vec<Arc<Head>>,
    /// The number of all matches, if asked for.
    pub count: Option<u64>,
}

/// The answer to a query on one snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotAnswer {
    /// The last position that is applied in it.
    pub position: u64,
    /// The answer.
    pub answer: QueryAnswer,
    /// Records whose rows differ in it from what the log has up to that position, see
    /// [`RecordStore::find_captured`].
    pub captured: Vec<RecordId>,
}

/// Which related users to list.
#[derive(Clone, Debug)]
pub struct RelatedPage {
    /// The kind of relation.
    pub relation: Relation,
    /// The direction of the relation; `Mutual` for both.
    pub direction: Direction,
    /// The user whose relations these are.
    pub user: UserId,
    /// The largest number of users; `None` for all.
    pub limit: Option<u64>,
    /// How many are skipped.
    pub offset: u64,
}

/// Heads that are in memory: a query then only has to find out which ones match.
pub trait HeadSource: Send + Sync {
    /// Returns, for each key, the head that was written at exactly that position, if it is in
    /// memory.
    fn get_written(&self, name: &TypeName, versions: &[(RecordKey, u64)])
    -> Vec<Option<Arc<Head>>>;
}

/// Has no heads: every record comes from the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeads;

impl HeadSource for NoHeads {
    fn get_written(&self, _: &TypeName, versions: &[(RecordKey, u64)]) -> Vec<Option<Arc<Head>>> {
        vec![None; versions.len()]
    }
}

/// The caller of a query, and the database that is queried.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    /// The database.
    pub scope: &'a Scope,
    /// The caller; access lists apply unless it has the master key.
    pub caller: &'a Caller,
}

impl Viewer<'_> {
    /// Returns whether a condition may look into a record that a reference names: one that the
    /// caller can see, in the public database or the one that is queried.
    pub fn may_look_into(&self, record: &Record) -> bool {
        let is_own = matches!(
            (self.scope, &record.database),
            (Scope::Private(user), Database::Private(owner)) if user == owner
        );
        let is_public = record.database == Database::Public;
        self.caller.is_master() || is_own || (is_public && self.caller.may(Level::Read, record))
    }
}

/// Everything that the server keeps in memory from the start, as of one position.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The last applied position.
    pub checkpoint: u64,
    /// All record types.
    pub types: Vec<TypeDefinition>,
    /// All roles, with the versions of their streams.
    pub roles: Vec<(RoleName, u32, RoleFlags)>,
    /// The rules of access to fields, with the version of their stream.
    pub field_access: (u32, FieldAccess),
    /// The last number of each sequence field.
    pub sequences: Vec<(TypeName, String, i64)>,
}

/// The record store. Reads see everything up to the last successful `apply`, in whole commits.
#[async_trait]
pub trait RecordStore: Send + Sync + 'static {
    /// Loads what the server keeps in memory.
    async fn load_snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Returns how many events, or parts of them, the store could not apply: only the log has
    /// those.
    fn num_faults(&self) -> u64 {
        0
    }

    /// Loads the current versions of records, in the order asked for; `None` for those that do not
    /// exist.
    async fn load_heads(
        &self,
        definition: &TypeDefinition,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<Head>>, StoreError>;

    /// Finds which of these records have rows that something other than the projector has changed,
    /// if those changes are not in the log yet. The row of such a record does not match the log.
    async fn find_captured(
        &self,
        _definition: &TypeDefinition,
        _keys: &[RecordKey],
    ) -> Result<HashSet<RecordKey>, StoreError> {
        Ok(HashSet::new())
    }

    /// Lists all records of a type that [`RecordStore::find_captured`] would find. Some of them may
    /// have no rows, and exist all the same.
    async fn list_captured(
        &self,
        _definition: &TypeDefinition,
    ) -> Result<Vec<RecordKey>, StoreError> {
        Ok(Vec::new())
    }

    /// Lists some records whose fields have exactly these values, except one.
    async fn list_by_fields(
        &self,
        definition: &TypeDefinition,
        fields: &[(&str, &Value)],
        besides: &RecordKey,
    ) -> Result<Vec<RecordKey>, StoreError>;

    /// Finds the record whose fields have exactly these values (strings as the field compares
    /// them).
    async fn find_by_fields(
        &self,
        definition: &TypeDefinition,
        fields: &[(&str, &Value)],
    ) -> Result<Option<RecordKey>, StoreError>;

    /// Finds two records of a type that have the same values in these fields, none of them missing
    /// (strings as the fields compare them).
    async fn find_shared(
        &self,
        definition: &TypeDefinition,
        fields: &[String],
    ) -> Result<Option<[RecordKey; 2]>, StoreError>;

    /// Finds which records refer to some records, by the given types' reference fields.
    async fn find_referrers(
        &self,
        targets: &[RecordId],
        definitions: &[Arc<TypeDefinition>],
    ) -> Result<Referrers, StoreError>;

    /// Lists the keys of a type's records in ascending order, those after `after`, at most `limit`.
    async fn list_keys(
        &self,
        definition: &TypeDefinition,
        after: Option<&RecordKey>,
        limit: u32,
    ) -> Result<Vec<RecordKey>, StoreError>;

    /// Counts the records of a type in all databases, as the log has them up to the store's position:
    /// what other programs have changed by SQL since does not count.
    async fn count_records(&self, definition: &TypeDefinition) -> Result<u64, StoreError>;

    /// Runs a query as `viewer`: access lists are applied here, in the public database. Records
    /// that `heads` has are taken from there. A type that has not been created has no records.
    async fn query(
        &self,
        query: &Query,
        viewer: &Viewer<'_>,
        heads: &dyn HeadSource,
    ) -> Result<QueryAnswer, StoreError>;

    /// Like [`RecordStore::query`], on one snapshot. Also returns its position, and up to so many
    /// records of some types that do not match the log.
    async fn query_at(
        &self,
        query: &Query,
        viewer: &Viewer<'_>,
        captured: (&[TypeName], usize),
    ) -> Result<SnapshotAnswer, StoreError>;

    /// Like [`RecordStore::query`], on the records as they were at a position. Their type is as the
    /// given definition says, and the access lists of then and of today both apply. The condition
    /// must not look into other records. `None` when the store has not kept the records of that
    /// time.
    async fn query_as_of(
        &self,
        query: &Query,
        viewer: &Viewer<'_>,
        heads: &dyn HeadSource,
        moment: (u64, &TypeDefinition),
    ) -> Result<Option<QueryAnswer>, StoreError>;

    /// Finds for each stream the last event up to a position that does not build on earlier ones:
    /// one with a full state, or a deletion. It is a candidate, and may belong to another stream.
    async fn find_full_states(&self, at: &[(Stream, u64)]) -> Result<Vec<Option<u64>>, StoreError>;

    /// Lists for each stream where records were created under its id, up to a position, in order.
    /// As with [`RecordStore::list_candidates`], a few events of other streams may be among them.
    async fn list_creations(
        &self,
        streams: &[Stream],
        until: u64,
    ) -> Result<Vec<Vec<u64>>, StoreError>;

    /// Loads the numbers that records got when their type got a sequence field, in the order asked
    /// for. A record is named by the position of the event that added the field, and by the
    /// position where it was created; `None` if no record was there.
    async fn load_numbers(&self, at: &[(u64, u64)]) -> Result<Vec<Option<i64>>, StoreError>;

    /// Lists the positions of events of streams, each within its own range, in order and without
    /// duplicates. A few events of other streams may be among them: the event itself names its
    /// stream, and [`RecordEnv::streams`](crate::record::env::RecordEnv) checks it.
    async fn list_candidates(
        &self,
        ranges: &[(Stream, RangeInclusive<u64>)],
    ) -> Result<Vec<u64>, StoreError>;

    /// Lists the positions of a stream's last events up to a position, the newest first. As with
    /// [`RecordStore::list_candidates`], a few events of other streams may be among them. There are
    /// fewer than `limit` only if there are no more.
    async fn list_candidates_before(
        &self,
        stream: &Stream,
        until: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError>;

    /// Lists the positions of events of a kind from one position to another, in order, including
    /// those that were erased since.
    async fn list_positions_of_kind(
        &self,
        kind: EventKind,
        from: u64,
        until: u64,
    ) -> Result<Vec<u64>, StoreError>;

    /// Lists the positions of events of some kinds up to a position, in order: those that a user has
    /// caused, and those in which a plugin or a master key was involved, or no user at all. Others
    /// may be among them.
    async fn list_positions_of_user(
        &self,
        user: &UserId,
        kinds: &[EventKind],
        until: u64,
    ) -> Result<Vec<u64>, StoreError>;

    /// Loads records of a type in the order of their creation, regardless of who may see them: all,
    /// or those of one owner. Returns those created after the position `after`, each with the
    /// position of its creation; none when there are no more.
    async fn scan(
        &self,
        definition: &TypeDefinition,
        owner: Option<&UserId>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Head)>, StoreError>;

    /// Loads users' auth rows with the versions of their streams, in the order asked for.
    async fn load_users(&self, ids: &[UserId])
    -> Result<Vec<Option<(u32, UserState)>>, StoreError>;

    /// Finds the user to whom an account at another service is linked.
    async fn find_linked(
        &self,
        service: &Service,
        principal: &str,
    ) -> Result<Option<UserId>, StoreError>;

    /// Loads what is known of files with the versions of their streams, in the order asked for.
    async fn load_assets(
        &self,
        names: &[AssetName],
    ) -> Result<Vec<Option<(u32, AssetState)>>, StoreError>;

    /// Lists the names of files in ascending order, those after `after`, at most `limit`.
    async fn list_assets(
        &self,
        after: Option<&AssetName>,
        limit: u32,
    ) -> Result<Vec<AssetName>, StoreError>;

    /// Loads the version of a relation's stream, and for which of `others` the relation holds.
    async fn load_relations(
        &self,
        relation: Relation,
        from: &UserId,
        others: &[UserId],
    ) -> Result<(u32, BTreeSet<UserId>), StoreError>;

    /// Lists a page of related users by id, and counts all of them.
    async fn list_related(&self, page: &RelatedPage) -> Result<(Vec<UserId>, u64), StoreError>;

    /// Applies commits in order, in one transaction together with the checkpoint. Commits at or
    /// before the checkpoint are skipped, so applying twice changes nothing.
    ///
    /// An event that cannot be applied is kept in a faults table and does not stop the others.
    async fn apply(&self, commits: &[Arc<Commit>]) -> Result<(), StoreError>;

    /// Makes everything that was applied durable and closes the store.
    async fn close(&self) -> Result<(), StoreError>;
}
