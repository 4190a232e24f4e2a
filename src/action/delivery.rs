//! `delivery:list`, `delivery:pause`, `delivery:resume`, `delivery:rewind`, `delivery:redeliver`,
//! `delivery:dead_letters`, `delivery:resend`, `delivery:drop`, `delivery:forget`

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use skytrail_actors::delivery::consumers::{
    ConsumerState, DeadLetterId, ListedDeadLetter, Order, Target,
};
use skytrail_schema::code::ApiError;

use super::{Call, Outcome, Reply, request};

/// How many dead letters are listed by default, and at most.
const LETTERS: (u64, u64) = (100, 1000);

pub(super) async fn list(call: Call) -> Outcome {
    let states = call.services.consumers.states();
    let shown: Json = states.iter().map(|state| shown(&call, state)).collect();
    Reply::new(&shown)
}

pub(super) async fn pause(call: Call) -> Outcome {
    order(&call, Order::Pause).await
}

pub(super) async fn resume(call: Call) -> Outcome {
    order(&call, Order::Resume).await
}

pub(super) async fn rewind(call: Call) -> Outcome {
    consumer(&call)?;
    let position = request::whole_number(&call.body, "position")?;
    let time = request::time(&call.body, "time")?;
    let is_end = request::flag(&call.body, "end")?;
    let target = match (position, time, is_end) {
        (Some(position), None, false) => Target::Position(position),
        (None, Some(time), false) => Target::Time(time),
        (None, None, true) => Target::End,
        _ => {
            let message = "expected one of position, time and end";
            return Err(ApiError::invalid_argument(
                message,
                &["position", "time", "end"],
            ));
        }
    };
    order(&call, Order::Rewind(target)).await
}

pub(super) async fn redeliver(call: Call) -> Outcome {
    consumer(&call)?;
    let from = request::whole_number(&call.body, "from")?;
    let until = request::whole_number(&call.body, "until")?;
    let (Some(from), Some(until)) = (from, until) else {
        return Err(request::missing(&["from", "until"]));
    };
    order(&call, Order::Redeliver { from, until }).await
}

pub(super) async fn dead_letters(call: Call) -> Outcome {
    let consumer = consumer(&call)?;
    let after = request::text(&call.body, "after")?
        .map(letter_id)
        .transpose()?;
    let limit = request::whole_number(&call.body, "limit")?.unwrap_or(LETTERS.0);
    let limit = usize::try_from(limit.min(LETTERS.1)).unwrap_or(usize::MAX);
    let deliveries = &call.services.consumers;
    let letters = deliveries.dead_letters(consumer, after.as_ref(), limit);
    let letters = letters.await?;
    Reply::new(&letters.iter().map(to_wire).collect::<Json>())
}

pub(super) async fn resend(call: Call) -> Outcome {
    consumer(&call)?;
    let letters = letters(&call.body)?;
    order(&call, Order::Resend(letters)).await
}

pub(super) async fn drop(call: Call) -> Outcome {
    consumer(&call)?;
    let letters = letters(&call.body)?;
    order(&call, Order::Drop(letters)).await
}

pub(super) async fn forget(call: Call) -> Outcome {
    let consumer = consumer(&call)?;
    call.services.consumers.forget(consumer).await?;
    Reply::new(&json!({"status": "OK"}))
}

async fn order(call: &Call, order: Order) -> Outcome {
    let state = call
        .services
        .consumers
        .order(consumer(call)?, order)
        .await?;
    Reply::new(&shown(call, &state))
}

/// Shows a consumer's state. Its position belongs to the log's timeline.
pub(super) fn shown(call: &Call, state: &ConsumerState) -> Json {
    let mut shown = json!(state);
    if let Some(members) = shown.as_object_mut() {
        let timeline = call.services.events.timeline().to_string();
        members.insert("timeline".to_owned(), timeline.into());
    }
    shown
}

fn consumer(call: &Call) -> Result<&str, ApiError> {
    let name = request::text(&call.body, "consumer")?.filter(|name| !name.is_empty());
    name.ok_or_else(|| request::missing(&["consumer"]))
}

/// Reads which dead letters are meant; an empty list stands for all.
fn letters(body: &Map<String, Json>) -> Result<Vec<DeadLetterId>, ApiError> {
    let ids = request::texts(body, "ids")?.unwrap_or_default();
    let is_all = request::flag(body, "all")?;
    if ids.is_empty() != is_all {
        let message = "expected either ids or all";
        return Err(ApiError::invalid_argument(message, &["ids", "all"]));
    }
    ids.iter().map(|id| letter_id(id)).collect()
}

/// Parses the id of a dead letter: its position and its hook.
fn letter_id(text: &str) -> Result<DeadLetterId, ApiError> {
    let parts = text.split_once('/');
    let id = parts.and_then(|(position, hook)| Some((position.parse().ok()?, Arc::from(hook))));
    id.ok_or_else(|| {
        let message = format!("{text:?} is not a dead letter's id, such as 42/note_saved");
        ApiError::invalid_argument(message, &["ids"])
    })
}

fn to_wire(listed: &ListedDeadLetter) -> Json {
    let (position, hook) = &listed.id;
    let id = format!("{position}/{hook}");
    match &listed.letter {
        Ok(letter) => json!({
            "id": id,
            "position": position,
            "hook": hook,
            "record": letter.record,
            "attempts": letter.attempts,
            "error": letter.error,
            "at": letter.at,
        }),
        Err(why) => json!({
            "id": id,
            "position": position,
            "hook": hook,
            "unreadable": why,
        }),
    }
}
