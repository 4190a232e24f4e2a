//! What a plugin in a sandbox may ask the server: only reads, as of the write that it is tried on.
//! It can call the same actions over HTTP instead of its connection, where they return the current
//! state.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value as Json, json};
use skytrail_actors::plugin::{ApiCaller, ApiReply, PluginCall};
use skytrail_actors::record::past::Moment;
use skytrail_schema::code::{ApiError, Code};

use super::router::PluginCaller;
use crate::action::{self, AsOf, request};
use crate::services::Services;

/// The path of the server's address that a plugin in a sandbox receives.
const BASE: &str = "/_/sandbox";

/// Returns the path at the server's own address for a path below a sandbox's address.
pub(super) fn inner(path: &str) -> Option<&str> {
    match path.strip_prefix(BASE)? {
        "" => Some("/"),
        rest => rest.starts_with('/').then_some(rest),
    }
}

/// Returns the error for an action that does not run in a sandbox.
pub(super) fn not_run(action: &str) -> ApiError {
    let message = format!("{action} does not run in a sandbox, where plugins may only read");
    ApiError::new(Code::NotSupported, message)
}

/// Runs the actions that only read, and refuses the others.
pub struct SandboxCaller(pub Arc<Services>);

#[async_trait]
impl ApiCaller for SandboxCaller {
    async fn call(&self, mut call: PluginCall) -> ApiReply {
        let action = call.payload.get("action").and_then(Json::as_str);
        let action = action.unwrap_or_default().to_owned();
        let sandbox = &self.0.sandbox;
        let request = call.lineage.request_id;
        match action::find(&action).and_then(|action| action.sandbox) {
            Some(AsOf::Then) => {
                let latest = request.and_then(|request| sandbox.read_position(request));
                if let Some(latest) = latest
                    && let Err(error) = self.look_back(&mut call.payload, latest).await
                {
                    return refusal(&error);
                }
            }
            Some(AsOf::Now) => {}
            None => {
                sandbox.note_refusal(request, &action);
                return refusal(&not_run(&action));
            }
        }
        PluginCaller::sandboxed(&self.0).call(call).await
    }
}

impl SandboxCaller {
    /// Turns a read into one of the past: as of `latest`, or of an earlier point if the body asks
    /// for one.
    async fn look_back(&self, body: &mut Map<String, Json>, latest: u64) -> Result<(), ApiError> {
        let position = match request::moment(body, "as_of")? {
            None => latest,
            Some(Moment::Position(position)) => position.min(latest),
            Some(Moment::Time(time)) => self.0.events.position_at(time).await?.min(latest),
        };
        body.insert("as_of".to_owned(), position.into());
        Ok(())
    }
}

fn refusal(error: &ApiError) -> ApiReply {
    ApiReply {
        status: error.status(),
        body: json!({"error": error.to_wire()}),
    }
}

#[cfg(test)]
mod tests {
    use crate::action::ACTIONS;

    #[test]
    fn what_a_sandbox_runs_only_reads_and_is_chosen_by_hand() {
        let run: Vec<_> = ACTIONS.iter().filter(|it| it.sandbox.is_some()).collect();
        assert!(run.iter().all(|action| action.is_read()));
        let names: Vec<_> = run.iter().map(|action| action.name).collect();
        let chosen = [
            "record:fetch",
            "record:query",
            "relation:query",
            "role:get",
            "schema:fetch",
            "schema:settings",
        ];
        assert_eq!(names, chosen);
    }
}
