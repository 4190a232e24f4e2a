//! Importing what another server had, with its ids, owners, times and authors.
//!
//! An [`Importer`] is given the data of the source in batches, and reports what became of each
//! part. It produces events like any others, decided and appended like any others. The differences
//! are that nobody is asked (no access control, no hooks), and that the events are marked as an
//! import's.
//!
//! An import can be repeated: whatever is here already stays as it is. So after an interruption it
//! can be started again, and finds what was imported before. What was imported once and deleted
//! here since is not imported again.
//!
//! Records can refer to records that follow later: see [`Importer::records`].

mod records;
mod request;
mod settings;
mod users;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, Origin, Stream};
use skytrail_schema::id::{RecordId, TypeName, UserId, check_length};
use skytrail_schema::record::Record;
use skytrail_schema::types::FieldType;

pub use records::{ImportedRecord, Said};
pub use request::ImportRecords;
pub use settings::ImportedType;
pub(crate) use settings::plan_roles;
pub use users::{ImportedSubscriptions, Relations};

use crate::context::RequestContext;
use crate::record::attempt::{Outcome as Attempt, commit};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;
use crate::record::migrate;

/// After this many waits in vain the store is not going to catch up.
const MAX_WAITS: u32 = 50;

/// What became of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not here, and is now.
    Added,
    /// That outcome, but without references to what is not here yet.
    Incomplete(Box<Outcome>),
    /// It was here in an earlier state, and is now as it is at the source.
    Updated,
    /// It is here already.
    Present,
    /// It is here already and differs, or was deleted here; why it stays so.
    Kept(String),
    /// It cannot be imported; why.
    Refused(String),
}

/// How to import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Only reports what would become of everything.
    pub is_dry: bool,
    /// Whether records that are here already, and were changed later at the source, are updated.
    pub updates: bool,
    /// Whether what was deleted here is imported again.
    pub revives: bool,
}

/// What would be here by now, as far as the caller of a dry run knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Types with their fields, in addition to those that are here.
    pub types: BTreeMap<TypeName, BTreeMap<String, FieldType>>,
    /// Records, in addition to those that are here.
    pub records: HashSet<RecordId>,
}

/// See the module's overview.
pub struct Importer {
    env: RecordEnv,
    options: ImportOptions,
    context: RequestContext,
    /// The types that were here before: only their records can have been deleted here.
    earlier: HashSet<TypeName>,
    /// Whether nothing at all was here before.
    is_first: bool,
    /// Types as they would be: in a dry run nothing else knows of them.
    planned: parking_lot::RwLock<HashMap<TypeName, settings::PlannedType>>,
    /// Records that would be here in a dry run. `None` if every record and every file that is
    /// referred to counts as here.
    expected: parking_lot::RwLock<Option<HashSet<RecordId>>>,
}

impl Importer {
    /// Builds an importer for what is here.
    pub fn new(env: RecordEnv, options: ImportOptions) -> Self {
        let types = env.model.get_types();
        let created = types.iter().filter(|it| it.is_created);
        Self {
            earlier: created.map(|it| it.name.clone()).collect(),
            is_first: env.model.position() == 0,
            options,
            context: RequestContext {
                origin: Origin::Import,
                ..RequestContext::system()
            },
            planned: parking_lot::RwLock::default(),
            expected: parking_lot::RwLock::default(),
            env,
        }
    }

    /// Imports on somebody's behalf: the commits say so.
    pub fn on_behalf(self, context: RequestContext) -> Self {
        Self {
            context: RequestContext {
                origin: Origin::Import,
                ..context
            },
            ..self
        }
    }

    /// Counts as here only what is here and, in a dry run, what is planned.
    ///
    /// # Errors
    /// 114 for types that contradict those that are here.
    pub fn planning(self, planned: Planned) -> Result<Self, ApiError> {
        let extensions = migrate::creations(&planned.types, |name| self.definition(name))?;
        for (name, extension) in extensions {
            self.plan_extension(&name, &extension);
        }
        *self.expected.write() = self.options.is_dry.then_some(planned.records);
        Ok(self)
    }

    /// Appends what was planned, unless this is a dry run.
    async fn append(&self, plan: Plan, read_position: u64) -> Result<(), ApiError> {
        match self.try_append(plan, read_position).await? {
            Attempt::Done(()) => Ok(()),
            // Nobody else writes during an import of more than records.
            Attempt::Conflict => Err(ApiError::overloaded("the log")),
        }
    }

    /// Does the same as [`Importer::append`] where others may write meanwhile.
    async fn try_append(&self, plan: Plan, read_position: u64) -> Result<Attempt<()>, ApiError> {
        if self.options.is_dry || plan.events.is_empty() {
            return Ok(Attempt::Done(()));
        }
        let done = commit(&self.env.log, plan, read_position, &self.context).await?;
        Ok(done.discard())
    }

    /// Returns the position as of which the store is read next, once the store has applied it.
    ///
    /// The store may be busy with earlier imports for longer than a request would wait.
    async fn read_position(&self) -> Result<u64, ApiError> {
        let position = self.env.model.position();
        for _ in 1..MAX_WAITS {
            if self.env.applied.wait_for(position).await.is_ok() {
                return Ok(position);
            }
        }
        self.env.applied.wait_for(position).await?;
        Ok(position)
    }

    /// Whether something that is not here was here once.
    async fn was_here(&self, stream: &Stream) -> Result<bool, ApiError> {
        let is_new = match stream.record_type() {
            Some(name) => !self.earlier.contains(name),
            None => self.is_first,
        };
        if is_new || self.options.revives {
            return Ok(false);
        }
        let until = self.env.applied.position();
        let last = self.env.streams().back(stream, until).next().await?;
        Ok(last.is_some())
    }

    /// Finds what was ended in a stream; `read` returns what an event ends.
    async fn ended<T: Eq + Hash>(
        &self,
        stream: &Stream,
        read: impl Fn(EventBody) -> Option<T>,
    ) -> Result<HashSet<T>, ApiError> {
        let mut ended = HashSet::new();
        if self.is_first || self.options.revives {
            return Ok(ended);
        }
        let until = self.env.applied.position();
        for (_, event) in self.env.streams().read(stream, 1..=until).await? {
            ended.extend(read(event.body));
        }
        Ok(ended)
    }
}

/// Whether a user's record belongs to another user, who created it before that user was here.
/// Nothing in it can be trusted.
pub(crate) fn belongs_to_other_user(record: &Record) -> bool {
    let is_other =
        |owner: &UserId| owner.as_str() != record.id.key.as_str() && *owner != UserId::god();
    record.id.record_type.is_user() && record.owner.as_ref().is_some_and(is_other)
}

/// Refuses an id that is too long for some store: the log would contain something that a store
/// cannot apply.
fn too_long(what: &str, id: &str) -> Option<Outcome> {
    let refused = check_length(what, id).err()?;
    Some(Outcome::Refused(refused.message))
}

/// Returns the outcome for what was deleted here.
fn deleted_here() -> Outcome {
    Outcome::Kept("it existed here and was deleted".to_owned())
}
