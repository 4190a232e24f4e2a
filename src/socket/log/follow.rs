//! Following the log.

use std::sync::Arc;

use serde_json::{Map, Value as Json};
use skytrail_actors::events::{Page, Progress};
use skytrail_schema::code::ApiError;

use super::line::{Gone, Line, Received};
use super::{kind_of, unknown};
use crate::action::log::params;
use crate::services::Services;

/// Sends events until the client disconnects.
pub(super) async fn run(
    services: &Arc<Services>,
    line: &mut Line,
    message: &Map<String, Json>,
) -> Result<(), ApiError> {
    let mut follower = params::follower(services, message).await?;
    let mut progress = Progress::new(services.events.timeline());
    loop {
        tokio::select! {
            page = follower.next() => {
                if tell(line, &page, &mut progress, follower.position()).await.is_err() {
                    return Ok(());
                }
            }
            heard = line.heard() => match heard {
                Received::Message(message) => return Err(unknown(kind_of(&message), "nothing")),
                Received::Unreadable(refused) => return Err(refused),
                Received::Ended => return Ok(()),
            }
        }
    }
}

async fn tell(
    line: &mut Line,
    page: &Page,
    progress: &mut Progress,
    position: u64,
) -> Result<(), Gone> {
    for found in &page.events {
        let event = found.json.get();
        line.say(format!(r#"{{"type":"event","event":{event}}}"#))
            .await?;
    }
    if let Some(mut note) = progress.note(page, position) {
        if let Some(note) = note.as_object_mut() {
            note.insert("type".to_owned(), "position".into());
        }
        line.say(note.to_string()).await?;
    }
    Ok(())
}
