//! Working for a consumer of the log.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use skytrail_actors::delivery::consumers::{LogWorker, WorkItem, WorkerAnswer};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::json::whole_number;

use super::line::{Line, Received};
use super::{kind_of, unknown};
use crate::services::Services;

/// How many events a worker handles at once by default.
const WINDOW: u64 = 16;

/// The longest pause that a worker can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The messages that a worker can send.
const WORDS: &str = "ack, retry, park or extend";

/// Sends events to a worker and receives its answers, until it disconnects.
pub(super) async fn run(
    services: &Arc<Services>,
    line: &mut Line,
    message: &Map<String, Json>,
) -> Result<(), ApiError> {
    let name = message.get("consumer").and_then(Json::as_str);
    let name = name.ok_or_else(|| missing("consumer"))?;
    let window = number(message, "window")?.unwrap_or(WINDOW).max(1);
    let window = usize::try_from(window).unwrap_or(usize::MAX);
    let mut worker = services.consumers.work_for(name, window)?;
    let greeting = json!({
        "type": "consuming",
        "consumer": name,
        "window": worker.window(),
        "timeline": services.events.timeline().to_string(),
        "timeout_ms": u64::try_from(worker.limit().as_millis()).unwrap_or(u64::MAX),
    });
    if line.say(greeting.to_string()).await.is_err() {
        return Ok(());
    }
    loop {
        tokio::select! {
            event = worker.next() => match event {
                Some(event) => {
                    if line.say(text(&event)).await.is_err() {
                        return Ok(());
                    }
                }
                None => return Err(deleted()),
            },
            heard = line.heard() => match heard {
                Received::Message(message) => take(&mut worker, &message)?,
                Received::Unreadable(refused) => return Err(refused),
                Received::Ended => return Ok(()),
            }
        }
    }
}

fn text(event: &WorkItem) -> String {
    let (attempt, json) = (event.attempt, event.json.get());
    format!(r#"{{"type":"event","attempt":{attempt},"event":{json}}}"#)
}

/// Applies a worker's answer. An answer for an event that the worker no longer has is late, and
/// ignored.
fn take(worker: &mut LogWorker, message: &Map<String, Json>) -> Result<(), ApiError> {
    let kind = kind_of(message);
    if !["ack", "retry", "park", "extend"].contains(&kind) {
        return Err(unknown(kind, WORDS));
    }
    let position = number(message, "position")?.ok_or_else(|| missing("position"))?;
    let reason = || {
        let reason = message.get("message").and_then(Json::as_str);
        reason.unwrap_or_default().to_owned()
    };
    let answer = match kind {
        "ack" => WorkerAnswer::Acknowledged,
        "park" => WorkerAnswer::Parked { message: reason() },
        "retry" => {
            let after = number(message, "after_ms")?.map(Duration::from_millis);
            WorkerAnswer::Again {
                after: after.map(|after| after.min(LONGEST_PAUSE)),
                message: reason(),
            }
        }
        _ => {
            worker.extend(position);
            return Ok(());
        }
    };
    worker.answer(position, answer);
    Ok(())
}

fn number(message: &Map<String, Json>, name: &str) -> Result<Option<u64>, ApiError> {
    let Some(value) = message.get(name).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let wrong = || ApiError::invalid_argument(format!("{name} should be a number"), &[name]);
    whole_number(value).map(Some).ok_or_else(wrong)
}

fn missing(name: &str) -> ApiError {
    ApiError::invalid_argument("missing required fields", &[name])
}

fn deleted() -> ApiError {
    ApiError::new(Code::ResourceNotFound, "the consumer was deleted")
}
