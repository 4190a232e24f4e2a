//! One write, gone through with the hooks of a plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skytrail_schema::acl::Acl;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Commit, Event, EventBody, Origin, Stream};
use skytrail_schema::record::{Fields, Head, Record};
use skytrail_schema::types::TypeDefinition;
use skytrail_schema::value::Value;
use uuid::Uuid;

use super::{Around, Difference, Ending, Finding, Sandbox};
use crate::context::RequestContext;
use crate::plugin::{PluginGate, Trigger};
use crate::record::apply::{self, Folded};
use crate::record::draft::Draft;
use crate::record::hooks;
use crate::record::past::Walk;

/// The name that differences and provenances have for the access list.
const ACCESS: &str = "_access";

/// What is known of a write.
struct Write {
    /// The record before.
    before: Option<Arc<Head>>,
    /// The record after; none when it was deleted.
    after: Option<Record>,
    /// The fields that the plugin's hooks changed then: with what they were sent is not known.
    unknown: BTreeSet<String>,
    /// Its type.
    definition: Arc<TypeDefinition>,
}

/// What a save came to: the fields that would be different, or why it would not be stored.
type Tried = Result<BTreeMap<String, Difference>, ApiError>;

impl Sandbox {
    /// Goes through a write; `None` when what it was made from is gone from the log.
    ///
    /// # Errors
    /// 118 when the plugin is lost; the store or the log cannot be read.
    pub(super) async fn rehearse(
        &self,
        stage: &Arc<dyn PluginGate>,
        (plugin, with_after): (&str, bool),
        commit: &Commit,
        event: &Event,
    ) -> Result<Option<Finding>, ApiError> {
        let Some(write) = self.write(plugin, event).await? else {
            return Ok(None);
        };
        let Stream::Record(id) = &event.stream else {
            return Ok(None);
        };
        let context = self.context_of(commit).await?;
        let request = context.request.id();
        let around = Around {
            position: commit.first_position() - 1,
            refused: BTreeSet::new(),
        };
        self.running.lock().insert(request, around);
        let tried = self.try_out(stage, &write, &context, with_after).await;
        let around = self.running.lock().remove(&request);
        let (outcome, fields, error) = tried?;
        Ok(Some(Finding {
            position: event.position,
            at: commit.time,
            record: id.clone(),
            kind: event.body.kind().name(),
            request_id: commit.request_id,
            outcome,
            fields,
            unknown: write.unknown,
            error: error.map(|error| error.to_wire()),
            refused_calls: around.unwrap_or_default().refused,
        }))
    }

    /// Finds out what is known of a write.
    async fn write(&self, plugin: &str, event: &Event) -> Result<Option<Write>, ApiError> {
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
        }))
    }

    /// Returns the circumstances as hooks were told them, under a request of its own. A user who was
    /// removed since is left out, as of late deliveries.
    async fn context_of(&self, commit: &Commit) -> Result<RequestContext, ApiError> {
        let actor = &commit.actor;
        let user = match &actor.user {
            Some(user) if !self.env.has_user(user).await? => None,
            user => user.clone(),
        };
        Ok(RequestContext {
            caller: Caller {
                key: actor.key,
                user,
                ..Caller::default()
            },
            tag: "record",
            may_migrate: false,
            origin: Origin::Api,
            ..RequestContext::system()
        })
    }

    async fn try_out(
        &self,
        stage: &Arc<dyn PluginGate>,
        write: &Write,
        context: &RequestContext,
        with_after: bool,
    ) -> Result<(Ending, BTreeMap<String, Difference>, Option<ApiError>), ApiError> {
        let (ending, fields, error) = match &write.after {
            Some(after) => match save(stage, write, after, context).await? {
                (ending, Ok(fields)) => (ending, fields, None),
                (ending, Err(error)) => (ending, BTreeMap::new(), Some(error)),
            },
            None => match delete(stage, write, context).await? {
                Ok(()) => (Ending::Same, BTreeMap::new(), None),
                Err(error) => (Ending::Refused, BTreeMap::new(), Some(error)),
            },
        };
        if ending == Ending::Same && with_after {
            let told = answered(after_hooks(stage, write, context).await)?;
            if let Err(error) = told {
                return Ok((Ending::Failed, BTreeMap::new(), Some(error)));
            }
        }
        Ok((ending, fields, error))
    }
}

/// Tries a save; see the overview of [`super`].
async fn save(
    stage: &Arc<dyn PluginGate>,
    write: &Write,
    after: &Record,
    context: &RequestContext,
) -> Result<(Ending, Tried), ApiError> {
    let of = |tried: Tried| match &tried {
        Ok(fields) if fields.is_empty() => (Ending::Same, tried),
        Ok(_) => (Ending::Changed, tried),
        Err(_) => (Ending::Refused, tried),
    };
    let unsent = run(stage, write, (after, unsent(write, after)), context).await?;
    let (ending, unsent) = of(unsent);
    if ending == Ending::Same || write.unknown.is_empty() {
        return Ok((ending, unsent));
    }
    let sent = run(stage, write, (after, sent(write, after)), context).await?;
    Ok(match of(sent) {
        (Ending::Same, _) => (Ending::Depends, unsent),
        (_, sent) if unsent.is_err() => of(sent),
        _ => (ending, unsent),
    })
}

/// Runs the before-save hooks on a record, and holds what they leave against what was stored.
async fn run(
    stage: &Arc<dyn PluginGate>,
    write: &Write,
    (stored, record): (&Record, Record),
    context: &RequestContext,
) -> Result<Tried, ApiError> {
    let mut draft = Draft {
        record,
        original: write.before.clone(),
        provenance: Vec::new(),
    };
    let done = hooks::before_save(stage, &mut draft, context, Uuid::now_v7()).await;
    Ok(answered(done)?.map(|()| difference(write, stored, &draft.record)))
}

/// Returns the record as if all of it had been sent as it was stored.
fn sent(write: &Write, after: &Record) -> Record {
    let mut record = after.clone();
    match &write.before {
        // What lost its value was sent as null.
        Some(before) => {
            for name in before.record.fields.keys() {
                let field = record.fields.entry(name.clone());
                field.or_insert(Value::Null);
            }
        }
        // Its numbers were given behind the hooks.
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

fn difference(write: &Write, stored: &Record, tried: &Record) -> BTreeMap<String, Difference> {
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
    let done = hooks::before_delete(stage, &before.record, context, Uuid::now_v7());
    answered(done.await)
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
            hooks::after(stage, Trigger::AfterSave, (after, before), context).await
        }
        (None, Some(before)) => {
            hooks::after(stage, Trigger::AfterDelete, (before, None), context).await
        }
        (None, None) => Ok(()),
    }
}

/// Tells what a hook said from that there is nobody who could say something.
fn answered<T>(answer: Result<T, ApiError>) -> Result<Result<T, ApiError>, ApiError> {
    match answer {
        Err(error) if error.code == Code::PluginUnavailable => Err(error),
        answer => Ok(answer),
    }
}
