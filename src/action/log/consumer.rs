//! `log:consumer:create`, `log:consumer:delete`

use serde_json::{Map, Value as Json, json};
use skytrail_actors::delivery::consumers::LogConsumerOptions;
use skytrail_schema::code::ApiError;

use super::params;
use crate::action::{Call, Outcome, Reply, delivery, request};

/// How often an event is tried by default, and at most.
const ATTEMPTS: (u64, u64) = (10, 1000);

/// How long a worker may take for an event by default, at least, and at most: milliseconds.
const TIMEOUT_MS: (u64, u64, u64) = (60_000, 100, 3_600_000);

pub(in crate::action) async fn create(call: Call) -> Outcome {
    let name = name(&call.body)?;
    let attempts = request::whole_number(&call.body, "max_attempts")?.unwrap_or(ATTEMPTS.0);
    let timeout_ms = request::whole_number(&call.body, "timeout_ms")?.unwrap_or(TIMEOUT_MS.0);
    within("max_attempts", attempts, (1, ATTEMPTS.1))?;
    within("timeout_ms", timeout_ms, (TIMEOUT_MS.1, TIMEOUT_MS.2))?;
    let consumers = &call.services.consumers;
    let mut options = LogConsumerOptions {
        filter: params::filter_as_written(&call.body)?,
        max_attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        timeout_ms,
    };
    // One that was created before names could be given has what was given.
    if consumers
        .log_options(name)
        .is_none_or(|known| known != options)
    {
        options.filter = params::filter(&call.services, &call.body).await?;
    }
    let behind = params::start_after(&call.services.events, &call.body).await?;
    let state = consumers.create_consumer(name, options, behind).await?;
    Reply::new(&delivery::shown(&call, &state))
}

pub(in crate::action) async fn delete(call: Call) -> Outcome {
    let name = name(&call.body)?;
    call.services.consumers.delete_consumer(name).await?;
    Reply::new(&json!({"status": "OK"}))
}

fn name(body: &Map<String, Json>) -> Result<&str, ApiError> {
    let name = request::text(body, "consumer")?.filter(|name| !name.is_empty());
    name.ok_or_else(|| request::missing(&["consumer"]))
}

fn within(name: &str, number: u64, (least, most): (u64, u64)) -> Result<(), ApiError> {
    if (least..=most).contains(&number) {
        return Ok(());
    }
    let message = format!("{name} should be a number from {least} to {most}");
    Err(ApiError::invalid_argument(message, &[name]))
}
