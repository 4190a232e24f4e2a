//! One write, replayed with the hooks of a plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skytrail_schema::acl::Acl;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Commit, Event, EventBody, Origin, Stream};
use skytrail_schema::record::{Fields, Head, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::TypeDefinition;
use skytrail_schema::value::Value;

use super::page::is_about_accounts;
use super::{Difference, Finding, RehearsedWrite, ReplayOutcome, ReplayRequest, Sandbox};
use crate::context::{Cause, RequestContext};
use crate::plugin::{PluginGate, Trigger};
use crate::record::apply::{self, Folded};
use crate::record::draft::Draft;
use crate::record::hooks;
use crate::record::past::Walk;

/// The name that stands for the access list in differences and provenances.
const ACCESS: &str = "_access";

/// What is known of a write.
struct Write {
    /// The record before.
    before: Option<Arc<Head>>,
    /// The record after; `None` if it was deleted.
    after: Option<Record>,
    /// The fields that the plugin's hooks changed then: what they were sent with is not known.
    unknown: BTreeSet<String>,
    /// Its type.
    definition: Arc<TypeDefinition>,
    /// Its position in the log, and when it was committed.
    event: (u64, Timestamp),
}

/// What would be different.
#[derive(Default)]
struct Differences {
    /// The fields that count.
    fields: BTreeMap<String, Difference>,
    /// The ignored fields.
    ignored: BTreeSet<String>,
}

/// The result of a save: what would be different, or why it would not be stored.
type Tried = Result<Differences, ApiError>;

/// The ignored fields, each as `FIELD` or `TYPE.FIELD`.
pub(super) type Ignored = BTreeSet<String>;

impl Sandbox {
    /// Replays a write; `None` if what it was made from is gone from the log.
    ///
    /// # Errors
    /// 118 if the plugin is lost; the store or the log cannot be read.
    pub(super) async fn rehearse(
        &self,
        stage: &Arc<dyn PluginGate>,
        (plugin, request): (&str, &ReplayRequest),
        commit: &Commit,
        event: &Event,
    ) -> Result<Option<Finding>, ApiError> {
        let Some(write) = self.write(plugin, commit, event).await? else {
            return Ok(None);
        };
        let Stream::Record(id) = &event.stream else {
            return Ok(None);
        };
        let context = self.context_of(commit).await?;
        let request_id = context.request.id();
        let rehearsed = RehearsedWrite {
            position: commit.first_position() - 1,
            refused: BTreeSet::new(),
        };
        self.running.lock().insert(request_id, rehearsed);
        let tried = try_out(stage, &write, &context, request).await;
        let rehearsed = self.running.lock().remove(&request_id);
        let (outcome, differences, error) = tried?;
        Ok(Some(Finding {
            position: event.position,
            at: commit.time,
            record: id.clone(),
            kind: event.body.kind().name(),
            request_id: commit.request_id,
            outcome,
            fields: differences.fields,
            ignored: differences.ignored,
            unknown: write.unknown,
            error: error.map(|error| error.to_wire()),
            refused_calls: rehearsed.unwrap_or_default().refused,
        }))
    }

    /// Collects what is known of a write.
    async fn write(
        &self,
        plugin: &str,
        commit: &Commit,
        event: &Event,
    ) -> Result<Option<Write>, ApiError> {
        let Stream::Record(id) = &event.stream else {
            return Ok(None);
        };
        let walk = Walk::begin(&self.env, id, event.position - 1).await?;
        let before = walk.into_head();
        let Folded::Known(after) = apply::record(before.as_ref(), id, event) else {
            return Ok(None);
        };
        if before.is_none() && !matches!(event.body, EventBody::RecordCreated(_)) {
            return Ok(None);
        }
        let own = event.provenance.iter().filter(|it| it.plugin == plugin);
        let unknown = own.flat_map(|it| it.changed.iter().cloned()).collect();
        Ok(Some(Write {
            before: before.map(Arc::new),
            after: after.map(|head| head.record),
            unknown,
            definition: self.env.definition(&id.record_type),
            event: (event.position, commit.time),
        }))
    }

    /// Returns the context as hooks were told it, under a request of its own.
    ///
    /// A user who was removed since is left out, as in late deliveries. The log does not contain
    /// the action by which a record was saved; only what accounts did can be told from the rest.
    async fn context_of(&self, commit: &Commit) -> Result<RequestContext, ApiError> {
        let actor = &commit.actor;
        let user = match &actor.user {
            Some(user) if !self.env.has_user(user).await? => None,
            user => user.clone(),
        };
        Ok(RequestContext {
            caller: Caller {
                key: actor.key,
                rights: actor.rights,
                user,
                ..Caller::default()
            },
            tag: if is_about_accounts(commit) {
                "auth"
            } else {
                "record"
            },
            may_migrate: false,
            origin: Origin::Api,
            ..RequestContext::system()
        })
    }
}

/// Asks the hooks about a write; returns how it would end, with what difference or error.
async fn try_out(
    stage: &Arc<dyn PluginGate>,
    write: &Write,
    context: &RequestContext,
    request: &ReplayRequest,
) -> Result<(ReplayOutcome, Differences, Option<ApiError>), ApiError> {
    let (ending, differences, error) = match &write.after {
        Some(after) => match save(stage, write, (after, &request.ignored), context).await? {
            (ending, Ok(differences)) => (ending, differences, None),
            (ending, Err(error)) => (ending, Differences::default(), Some(error)),
        },
        None => match delete(stage, write, context).await? {
            Ok(()) => (ReplayOutcome::Same, Differences::default(), None),
            Err(error) => (ReplayOutcome::Refused, Differences::default(), Some(error)),
        },
    };
    if ending == ReplayOutcome::Same && request.has_after_hooks {
        let answer = answered(after_hooks(stage, write, context).await)?;
        if let Err(error) = answer {
            return Ok((ReplayOutcome::Failed, differences, Some(error)));
        }
    }
    Ok((ending, differences, error))
}

/// Tries a save; see the overview of [`super`].
async fn save(
    stage: &Arc<dyn PluginGate>,
    write: &Write,
    (after, ignored): (&Record, &Ignored),
    context: &RequestContext,
) -> Result<(ReplayOutcome, Tried), ApiError> {
    let of = |tried: Result<Record, ApiError>| match tried {
        Ok(tried) => {
            let differences = Differences::between(write, (after, &tried), ignored);
            match differences.fields.is_empty() {
                true => (ReplayOutcome::Same, Ok(differences)),
                false => (ReplayOutcome::Changed, Ok(differences)),
            }
        }
        Err(error) => (ReplayOutcome::Refused, Err(error)),
    };
    let unsent = run(stage, write, unsent(write, after), context).await?;
    let (ending, unsent) = of(unsent);
    if ending == ReplayOutcome::Same || write.unknown.is_empty() {
        return Ok((ending, unsent));
    }
    let sent = of(run(stage, write, sent(write, after), context).await?);
    Ok(match sent {
        (ReplayOutcome::Same, _) => (ReplayOutcome::Depends, unsent),
        sent if unsent.is_err() => sent,
        _ => (ending, unsent),
    })
}

/// Runs the before-save hooks on a record; returns the record that they leave.
async fn run(
    stage: &Arc<dyn PluginGate>,
    write: &Write,
    record: Record,
    context: &RequestContext,
) -> Result<Result<Record, ApiError>, ApiError> {
    let mut draft = Draft {
        record,
        original: write.before.clone(),
        provenance: Vec::new(),
        left_out: Default::default(),
    };
    let done = hooks::before_save(stage, &mut draft, context, &Cause::begin()).await;
    Ok(answered(done)?.map(|()| draft.record))
}

/// Returns the record as if all of it had been sent as it was stored.
fn sent(write: &Write, after: &Record) -> Record {
    let mut record = after.clone();
    match &write.before {
        // A field that lost its value was sent as null.
        Some(before) => {
            for name in before.record.fields.keys() {
                let field = record.fields.entry(name.clone());
                field.or_insert(Value::Null);
            }
        }
        // Its numbers were assigned after the hooks.
        None => {
            for field in write.definition.sequence_fields() {
                record.fields.remove(field);
            }
        }
    }
    record
}

/// Returns the record as if the fields that hooks changed had not been sent.
fn unsent(write: &Write, after: &Record) -> Record {
    let mut record = sent(write, after);
    let before = write.before.as_ref().map(|head| &head.record);
    for name in &write.unknown {
        if name == ACCESS {
            let stored = before.and_then(|before| before.access.clone());
            record.access = write.definition.default_access.clone().or(stored);
            continue;
        }
        match before.and_then(|before| before.fields.get(name)) {
            Some(value) => record.fields.insert(name.clone(), value.clone()),
            None => record.fields.remove(name),
        };
    }
    record
}

impl Differences {
    fn between(write: &Write, (stored, tried): (&Record, &Record), ignored: &Ignored) -> Self {
        let record_type = &stored.id.record_type;
        let is_ignored = |name: &String| {
            ignored.contains(name) || ignored.contains(&format!("{record_type}.{name}"))
        };
        let all = all_differences(write, stored, tried);
        let (ignored, fields): (BTreeMap<_, _>, _) =
            all.into_iter().partition(|(name, _)| is_ignored(name));
        Self {
            fields,
            ignored: ignored.into_keys().collect(),
        }
    }
}

fn all_differences(write: &Write, stored: &Record, tried: &Record) -> BTreeMap<String, Difference> {
    let value = |fields: &Fields, name: &str| {
        let value = fields.get(name).filter(|value| !value.is_null());
        value.map(Value::to_wire)
    };
    let numbered: BTreeSet<&str> = write.definition.sequence_fields().collect();
    let is_numbered = |name: &str| numbered.contains(name) && !tried.fields.contains_key(name);
    let names = stored.fields.keys().chain(tried.fields.keys());
    let mut different: BTreeMap<String, Difference> = names
        .filter(|name| !is_numbered(name))
        .map(|name| {
            let (then, now) = (value(&stored.fields, name), value(&tried.fields, name));
            (name.clone(), Difference { then, now })
        })
        .filter(|(_, difference)| difference.then != difference.now)
        .collect();
    if stored.access != tried.access {
        let wire = |access: &Option<Acl>| access.as_ref().map(Acl::to_wire);
        let (then, now) = (wire(&stored.access), wire(&tried.access));
        different.insert(ACCESS.to_owned(), Difference { then, now });
    }
    different
}

async fn delete(
    stage: &Arc<dyn PluginGate>,
    write: &Write,
    context: &RequestContext,
) -> Result<Result<(), ApiError>, ApiError> {
    let Some(before) = &write.before else {
        return Ok(Ok(()));
    };
    let done = hooks::before_delete(stage, &before.record, context, &Cause::begin()).await;
    answered(done)
}

/// Asks the after-hooks about the write as it was.
async fn after_hooks(
    stage: &Arc<dyn PluginGate>,
    write: &Write,
    context: &RequestContext,
) -> Result<(), ApiError> {
    let before = write.before.as_ref().map(|head| &head.record);
    match (&write.after, before) {
        (Some(after), before) => {
            let records = (after, before);
            hooks::after(stage, Trigger::AfterSave, records, write.event, context).await
        }
        (None, Some(before)) => {
            let records = (before, None);
            hooks::after(stage, Trigger::AfterDelete, records, write.event, context).await
        }
        (None, None) => Ok(()),
    }
}

/// Separates an error that a hook answered with from the lack of anybody who could answer.
fn answered<T>(answer: Result<T, ApiError>) -> Result<Result<T, ApiError>, ApiError> {
    match answer {
        Err(error) if error.code == Code::PluginUnavailable => Err(error),
        answer => Ok(answer),
    }
}
