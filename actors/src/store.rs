//! The record store's port: the queryable projection of the log.
//!
//! The store is disposable: everything in it can be made again from the log.
//! It is written by the projector alone, through [`RecordStore::apply`].

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

/// Who refers to some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Referrers {
    /// One that is not among them, by each that has such.
    pub others: HashMap<RecordId, RecordId>,
    /// Those that are among them, itself included, by each that has such.
    pub among: HashMap<RecordId, Vec<RecordId>>,
}

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A query that makes no sense for the type's fields; code and message are for the client.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The database is away, or too slow. Nothing is lost: the log has everything, and the store follows
    /// when the database is back. The cause is for the log only.
    #[error("record store not available: {cause}")]
    Unavailable {
        /// What clients are told.
        why: Away,
        /// The database's words.
        cause: String,
    },
    /// What is stored is not what was written. The store must be made anew from the log.
    #[error("record store damaged: {0}")]
    Damaged(String),
    /// The database failed; the text is for the log only.
    #[error("record store failed: {0}")]
    Failed(String),
}

/// Why a database does not serve at present, as far as it is for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// It is not there, is starting or stopping.
    Unreachable,
    /// It did not answer in time.
    Slow,
    /// It takes no more connections.
    Crowded,
    /// It has no space left.
    Full,
    /// It takes no writes: a standby.
    ReadOnly,
    /// It does not let the server write: a right, a table or a column was taken away.
    Closed,
    /// Others have changed its tables, so that they do not take what the log has.
    Altered,
    /// It does not take what the log has, for a reason that an operator has to look at.
    Failing,
    /// It has lost something, which is being applied again.
    Behind,
    /// Another server uses what is there, or has filled it.
    Taken,
}

impl Away {
    /// Says it to a client.
    pub fn message(self) -> &'static str {
        match self {
            Self::Unreachable => "the database cannot be reached, try again",
            Self::Slow => "the database takes too long to answer, try again",
            Self::Crowded => "the database has no connection to spare, try again",
            Self::Full => "the database has no space left, try again later",
            Self::ReadOnly => "the database takes no writes at present, try again",
            Self::Closed => "the database does not let the server write, try again later",
            Self::Altered => {
                "others have changed the tables of the database so that it cannot go on, try again later"
            }
            Self::Failing => "the database does not take what was saved, try again later",
            Self::Behind => "the database is being brought up to date, try again",
            Self::Taken => "the database is in use by another server, try again later",
        }
    }
}

impl StoreError {
    /// The database does not serve at present.
    pub fn unavailable(why: Away, cause: impl Into<String>) -> Self {
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

/// What a query brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryAnswer {
    /// The records of the page, in order.
    pub records: Vec<Arc<Head>>,
    /// The number of all matches, if asked for.
    pub count: Option<u64>,
}

/// Which related users are wanted.
#[derive(Clone, Debug)]
pub struct RelatedPage {
    /// The kind of relation.
    pub relation: Relation,
    /// Which way it points; `Mutual` both.
    pub direction: Direction,
    /// The user whose relations these are.
    pub user: UserId,
    /// How many at most; `None` for all.
    pub limit: Option<u64>,
    /// How many are skipped.
    pub offset: u64,
}

/// Heads that are in memory already: a query then only has to find out which ones it wants.
pub trait HeadSource: Send + Sync {
    /// Returns, for each key, the head that was written at exactly that position, if it is at hand.
    fn get_written(&self, name: &TypeName, wanted: &[(RecordKey, u64)]) -> Vec<Option<Arc<Head>>>;
}

/// Has no heads: every record comes from the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeads;

impl HeadSource for NoHeads {
    fn get_written(&self, _: &TypeName, wanted: &[(RecordKey, u64)]) -> Vec<Option<Arc<Head>>> {
        vec![None; wanted.len()]
    }
}

/// Who asks, and in which database.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The database.
    pub scope: &'a Scope,
    /// The caller; access lists apply to him unless he has the master key.
    pub caller: &'a Caller,
}

impl Asker<'_> {
    /// Whether a condition may look into a record that a reference names: into what the caller may
    /// see himself, in the public database or the one that is asked.
    pub fn may_look_into(&self, record: &Record) -> bool {
        let is_own = matches!(
            (self.scope, &record.database),
            (Scope::Private(user), Database::Private(owner)) if user == owner
        );
        let is_public = record.database == Database::Public;
        self.caller.is_master() || is_own || (is_public && self.caller.may(Level::Read, record))
    }
}

/// Everything the server keeps in memory from its start, as of one position.
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

/// The record store. Reads see everything up to the last successful `apply`, whole commits only.
#[async_trait]
pub trait RecordStore: Send + Sync + 'static {
    /// Loads what the server keeps in memory.
    async fn load_snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Returns how many events, or parts of them, the store could not take: the log alone has those.
    fn num_faults(&self) -> u64 {
        0
    }

    /// Loads the current versions of records, in the order asked for; `None` for those that are not there.
    async fn load_heads(
        &self,
        definition: &TypeDefinition,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<Head>>, StoreError>;

    /// Finds out which of these records' rows somebody else than the projector has changed, in what is not
    /// in the log yet. What a row says of such a record is not what the log says.
    async fn find_captured(
        &self,
        _definition: &TypeDefinition,
        _keys: &[RecordKey],
    ) -> Result<HashSet<RecordKey>, StoreError> {
        Ok(HashSet::new())
    }

    /// Lists the records of a type of which [`RecordStore::find_captured`] tells: some of them may have no
    /// rows, and be there all the same.
    async fn list_captured(
        &self,
        _definition: &TypeDefinition,
    ) -> Result<Vec<RecordKey>, StoreError> {
        Ok(Vec::new())
    }

    /// Lists some records whose fields have exactly these values, besides one.
    async fn list_by_fields(
        &self,
        definition: &TypeDefinition,
        fields: &[(&str, &Value)],
        besides: &RecordKey,
    ) -> Result<Vec<RecordKey>, StoreError>;

    /// Finds the record whose fields have exactly these values (text as the field compares it).
    async fn find_by_fields(
        &self,
        definition: &TypeDefinition,
        fields: &[(&str, &Value)],
    ) -> Result<Option<RecordKey>, StoreError>;

    /// Finds out who refers to some records, by the given types' reference fields.
    async fn find_referrers(
        &self,
        targets: &[RecordId],
        definitions: &[Arc<TypeDefinition>],
    ) -> Result<Referrers, StoreError>;

    /// Lists keys of a type's records in ascending order, those behind `after`, at most `limit`.
    async fn list_keys(
        &self,
        definition: &TypeDefinition,
        after: Option<&RecordKey>,
        limit: u32,
    ) -> Result<Vec<RecordKey>, StoreError>;

    /// Counts the records of a type, over all databases.
    async fn count_records(&self, definition: &TypeDefinition) -> Result<u64, StoreError>;

    /// Runs a query as `asker`: the access lists are applied here, in the public database.
    /// Records that `heads` has are taken from there. A type that is not created has no records.
    async fn query(
        &self,
        query: &Query,
        asker: &Asker<'_>,
        heads: &dyn HeadSource,
    ) -> Result<QueryAnswer, StoreError>;

    /// As [`RecordStore::query`], as of one moment: also returns the last position that had been
    /// applied then.
    async fn query_at(
        &self,
        query: &Query,
        asker: &Asker<'_>,
    ) -> Result<(u64, QueryAnswer), StoreError>;

    /// As [`RecordStore::query`], over the records as they were at a position, when their type was as
    /// that definition says, judged by the access lists of then and of today. The condition must not
    /// look into other records. `None` when the store has not kept what the records were then.
    async fn query_as_of(
        &self,
        query: &Query,
        asker: &Asker<'_>,
        heads: &dyn HeadSource,
        moment: (u64, &TypeDefinition),
    ) -> Result<Option<QueryAnswer>, StoreError>;

    /// Finds the last of each stream's events up to a position that does not build on earlier ones: one
    /// that carries a full state, or a deletion. Another stream's event may be among the candidates.
    async fn find_full_states(
        &self,
        wanted: &[(Stream, u64)],
    ) -> Result<Vec<Option<u64>>, StoreError>;

    /// Lists for each stream where records were created under its id, up to a position, in order. As
    /// with [`RecordStore::list_candidates`], a few of other streams may be among them.
    async fn list_creations(
        &self,
        streams: &[Stream],
        until: u64,
    ) -> Result<Vec<Vec<u64>>, StoreError>;

    /// Lists the positions of the events of streams, of each within a range of its own, in order and
    /// each once. A few of other streams may be among them: the event itself says whose it is, and
    /// [`RecordEnv::streams`](crate::record::env::RecordEnv) looks.
    async fn list_candidates(
        &self,
        wanted: &[(Stream, RangeInclusive<u64>)],
    ) -> Result<Vec<u64>, StoreError>;

    /// Lists the positions of a stream's last events up to a position, the newest first. As with
    /// [`RecordStore::list_candidates`], a few of other streams may be among them. They are fewer than
    /// `limit` only where there are no more.
    async fn list_candidates_before(
        &self,
        stream: &Stream,
        until: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError>;

    /// Lists the positions of events of a kind from one position to another, in order, also of what was
    /// erased since.
    async fn list_positions_of_kind(
        &self,
        kind: EventKind,
        from: u64,
        until: u64,
    ) -> Result<Vec<u64>, StoreError>;

    /// Loads records of a type, whoever may see them, in the order of their creation: those that were
    /// created behind a position, each with where it was. Empty when there are no more.
    async fn scan(
        &self,
        definition: &TypeDefinition,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Head)>, StoreError>;

    /// Loads users' auth rows with the version of their streams, in the order asked for.
    async fn load_users(&self, ids: &[UserId])
    -> Result<Vec<Option<(u32, UserState)>>, StoreError>;

    /// Finds the user whom an account elsewhere is linked to.
    async fn find_linked(
        &self,
        service: &Service,
        principal: &str,
    ) -> Result<Option<UserId>, StoreError>;

    /// Loads what is known of files with the version of their streams, in the order asked for.
    async fn load_assets(
        &self,
        names: &[AssetName],
    ) -> Result<Vec<Option<(u32, AssetState)>>, StoreError>;

    /// Loads the version of the stream of a relation and for which of `others` it holds.
    async fn load_relations(
        &self,
        relation: Relation,
        from: &UserId,
        others: &[UserId],
    ) -> Result<(u32, BTreeSet<UserId>), StoreError>;

    /// Lists a page of related users by id, and counts all of them.
    async fn list_related(&self, wanted: &RelatedPage) -> Result<(Vec<UserId>, u64), StoreError>;

    /// Applies commits, in order, in one transaction together with the checkpoint. Commits at or below
    /// the checkpoint are skipped, so applying twice changes nothing.
    ///
    /// An event that cannot be applied is kept in a faults table and does not stop the others.
    async fn apply(&self, commits: &[Arc<Commit>]) -> Result<(), StoreError>;

    /// Makes everything that was applied durable and closes the store.
    async fn close(&self) -> Result<(), StoreError>;
}
