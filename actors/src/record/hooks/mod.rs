//! Running before-hooks on a record, and applying their answers.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value as Json, json};
use skytrail_schema::acl::Acl;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::Provenance;
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;

use super::draft::Draft;
use crate::context::{Cause, RequestContext};
use crate::plugin::{
    CallContext, DeliveryNote, Hook, Lineage, PluginCallError, PluginGate, PluginRequest, Trigger,
    never_urgent,
};
use crate::spawn::spawn_named;
use std::sync::Arc;

/// Runs before-save hooks on a draft, each on the result of the one before.
///
/// # Errors
/// The first hook that refuses, fails, or answers with something other than this record.
pub async fn before_save(
    plugins: &Arc<dyn PluginGate>,
    draft: &mut Draft,
    context: &RequestContext,
    cause: &Cause,
) -> Result<(), ApiError> {
    let points = plugins.points();
    for hook in points.hooks(&draft.record.id.record_type, Trigger::BeforeSave) {
        let original = draft.original.as_ref().map(|head| &head.record);
        let request = request(hook, &draft.record, original, context, cause);
        if hook.is_async {
            forget(plugins, request);
            continue;
        }
        let answer = read_answer(hook, &ask(plugins, request, context).await?, &draft.record)?;
        let changed = take_over(draft, answer);
        if !changed.is_empty() {
            let plugin = hook.plugin.to_string();
            draft.provenance.push(Provenance {
                plugin,
                hook: hook.name.clone(),
                changed,
            });
        }
    }
    restore(draft);
    Ok(())
}

/// Runs before-delete hooks. Asynchronous ones are sent off; the first synchronous one that fails
/// ends the sequence.
///
/// # Errors
/// Those of [`before_save`].
pub async fn before_delete(
    plugins: &Arc<dyn PluginGate>,
    record: &Record,
    context: &RequestContext,
    cause: &Cause,
) -> Result<(), ApiError> {
    let points = plugins.points();
    for hook in points.hooks(&record.id.record_type, Trigger::BeforeDelete) {
        let request = request(hook, record, None, context, cause);
        if hook.is_async {
            forget(plugins, request);
        } else {
            check_answer(hook, &ask(plugins, request, context).await?, record)?;
        }
    }
    Ok(())
}

/// Calls all after-hooks with a record and its event, immediately. For trying them out: this is not
/// a delivery that must be made, although the hooks are told of one.
///
/// # Errors
/// The first hook that fails, or answers with something other than this record.
pub async fn after(
    plugins: &Arc<dyn PluginGate>,
    trigger: Trigger,
    (record, original): (&Record, Option<&Record>),
    (position, at): (u64, Timestamp),
    context: &RequestContext,
) -> Result<(), ApiError> {
    let what = format!("sandbox/{position}");
    let points = plugins.points();
    for hook in points.hooks(&record.id.record_type, trigger) {
        let request = request(hook, record, original, context, &Cause::begin());
        let note = DeliveryNote::tried(&what, &hook.name, (position, at));
        let answer = plugins.deliver(request, note, never_urgent()).await;
        let answer = answer.map_err(PluginCallError::into_error)?;
        if !hook.is_async {
            check_answer(hook, &answer, record)?;
        }
    }
    Ok(())
}

/// Checks the answer of a hook that changes nothing: it must still be the hook's record.
///
/// # Errors
/// 10000 for an answer that is not this record.
pub fn check_answer(hook: &Hook, answer: &Json, record: &Record) -> Result<(), ApiError> {
    read_answer(hook, answer, record).map(drop)
}

/// Asks a before-hook, as long as somebody waits for the request.
async fn ask(
    plugins: &Arc<dyn PluginGate>,
    request: PluginRequest,
    context: &RequestContext,
) -> Result<Json, ApiError> {
    tokio::select! {
        biased;
        () = context.commit_gate.given_up() => {
            Err(ApiError::unexpected("the client is gone").with_status(499))
        }
        answer = plugins.call(request) => answer,
    }
}

fn forget(plugins: &Arc<dyn PluginGate>, mut request: PluginRequest) {
    let plugins = Arc::clone(plugins);
    request.deadline = None;
    // Nobody waits for this hook, so it queues like every other call.
    request.lineage.via.clear();
    if let Some(context) = &mut request.context {
        context.request_id = None;
        context.request_tag = "";
    }
    spawn_named("asynchronous hook", async move {
        let name = request.name.clone();
        if let Err(error) = plugins.call(request).await {
            tracing::warn!(hook = name, %error, "asynchronous hook failed");
        }
    });
}

fn request(
    hook: &Hook,
    record: &Record,
    original: Option<&Record>,
    context: &RequestContext,
    cause: &Cause,
) -> PluginRequest {
    let mut ancestors = context.ancestors.clone();
    ancestors.push(cause.clone());
    PluginRequest {
        plugin: Arc::clone(&hook.plugin),
        kind: "hook",
        name: hook.name.clone(),
        param: json!({
            "record": record.to_wire(),
            "original": original.map(Record::to_wire),
        }),
        context: Some(CallContext::of(context)),
        timeout: hook.timeout,
        deadline: context.deadline,
        lineage: Lineage {
            ancestors,
            ..Lineage::of(context)
        },
    }
}

/// What a hook's answer says about the record.
struct Answer {
    fields: Fields,
    access: Option<Acl>,
}

/// Reads a hook's answer. The client gets v1's message, so the server's own log names the hook.
fn read_answer(hook: &Hook, answer: &Json, record: &Record) -> Result<Answer, ApiError> {
    parse_answer(answer, record).inspect_err(|error| {
        let Hook { plugin, name, .. } = hook;
        tracing::warn!(
            %plugin, hook = name, why = error.message,
            "a hook answered with an invalid record"
        );
    })
}

fn parse_answer(answer: &Json, record: &Record) -> Result<Answer, ApiError> {
    let object = answer
        .as_object()
        .ok_or_else(|| bad("no key \"_id\" in map"))?;
    let id = object
        .get("_id")
        .and_then(Json::as_str)
        .ok_or_else(|| bad("no key \"_id\" in map"))?;
    if id != record.id.to_string() {
        return Err(bad(&format!(
            "the hook changed _id from {} to {id}",
            record.id
        )));
    }
    for name in ["_ownerID", "_created_by", "_updated_by"] {
        if object
            .get(name)
            .is_some_and(|value| !value.is_string() && !value.is_null())
        {
            return Err(bad(&format!("{name} should be a string")));
        }
    }
    for name in ["_created_at", "_updated_at"] {
        let is_time = |value: &Json| {
            value
                .as_str()
                .is_some_and(|text| Timestamp::parse(text).is_some())
        };
        if object
            .get(name)
            .is_some_and(|value| !value.is_null() && !is_time(value))
        {
            return Err(bad(&format!("{name} should be a time")));
        }
    }
    let access = object.get("_access").unwrap_or(&Json::Null);
    let access = Acl::from_wire(access).map_err(|error| bad(&error.to_string()))?;
    Ok(Answer {
        fields: parse_fields(object)?,
        access,
    })
}

fn parse_fields(object: &Map<String, Json>) -> Result<Fields, ApiError> {
    let fields = object
        .iter()
        .filter(|(name, _)| !name.is_empty() && !name.starts_with('_'));
    let parse = |(name, value): (&String, &Json)| {
        let value = Value::from_wire(value.clone());
        let value = value.map_err(|error| bad(&format!("{name}: {error}")))?;
        Ok((name.clone(), value))
    };
    fields.map(parse).collect()
}

/// Applies an answer's fields and access list; returns the names of what it changed.
///
/// A field that the answer leaves out counts as not sent by the client. So does one that the answer
/// turns into a sequence or unknown marker, unless it was a marker before. All other metadata
/// belongs to the server.
fn take_over(draft: &mut Draft, answer: Answer) -> BTreeSet<String> {
    let original = draft.original.as_ref().map(|head| &head.record);
    let stored = |name: &str| original.and_then(|record| record.fields.get(name));
    let before = std::mem::take(&mut draft.record.fields);
    let mut after = Fields::new();
    for (name, value) in answer.fields {
        let stored_value = before.get(&name).or_else(|| stored(&name));
        if let Some(same) = stored_value.filter(|stored_value| is_same(stored_value, &value)) {
            after.insert(name, same.clone());
        } else if !is_marker(&value) && (stored_value.is_some() || !value.is_null()) {
            after.insert(name, value);
        }
    }
    let names = before.keys().chain(after.keys());
    let is_changed = |name: &&String| {
        before.get(*name).or_else(|| stored(name)) != after.get(*name).or_else(|| stored(name))
    };
    let mut changed: BTreeSet<String> = names.filter(is_changed).cloned().collect();
    let access = answer
        .access
        .or_else(|| original.and_then(|record| record.access.clone()));
    if access != draft.record.access {
        draft.record.access = access;
        changed.insert("_access".to_owned());
    }
    draft.record.fields = after;
    changed
}

fn is_marker(value: &Value) -> bool {
    matches!(value, Value::Sequence | Value::Unknown(_))
}

/// Whether a plugin that was shown `stored_value` can send it back, unchanged, as `answered`.
///
/// Files lose their media types, values without a wire form become markers, and numbers inside JSON
/// have the precision of the plugin's language.
fn is_same(stored_value: &Value, answered: &Value) -> bool {
    match (stored_value, answered) {
        (Value::Asset(stored_value), Value::Asset(answered)) => stored_value.name == answered.name,
        (Value::Json(stored_value), Value::Json(answered)) => is_same_json(stored_value, answered),
        _ => is_marker(stored_value) && is_marker(answered),
    }
}

/// Whether a language without large whole numbers writes what it was shown in this way. A different
/// number that would be rounded to the same one is a change.
fn is_rounded(stored_value: &Number, answered: &Number) -> bool {
    let rounded = stored_value.as_f64();
    let is_written_so = |it: f64| answered.is_f64() || answered.to_string() == it.to_string();
    rounded == answered.as_f64() && rounded.is_some_and(is_written_so)
}

fn is_same_json(stored_value: &Json, answered: &Json) -> bool {
    match (stored_value, answered) {
        (Json::Number(stored_value), Json::Number(answered)) => {
            stored_value == answered || is_rounded(stored_value, answered)
        }
        (Json::Array(stored_value), Json::Array(answered)) => {
            let mut pairs = stored_value.iter().zip(answered);
            stored_value.len() == answered.len()
                && pairs.all(|(stored_value, answered)| is_same_json(stored_value, answered))
        }
        (Json::Object(stored_value), Json::Object(answered)) => {
            let is_in = |(name, stored_value): (&String, &Json)| {
                let answered = answered.get(name);
                answered.is_some_and(|answered| is_same_json(stored_value, answered))
            };
            stored_value.len() == answered.len() && stored_value.iter().all(is_in)
        }
        _ => stored_value == answered,
    }
}

/// Restores the stored values of the fields that hooks left out.
fn restore(draft: &mut Draft) {
    let original = draft.original.iter();
    for (name, value) in original.flat_map(|head| &head.record.fields) {
        if !draft.record.fields.contains_key(name) {
            draft.record.fields.insert(name.clone(), value.clone());
            draft.left_out.insert(name.clone());
        }
    }
}

fn bad(reason: &str) -> ApiError {
    ApiError::unexpected(format!("failed to unmarshal record: {reason}"))
}

#[cfg(test)]
mod tests;
