//! Consumers of the log: other programs that are told of events by name, like plugins of theirs.
//!
//! One is made with what it is told ([`LogConsumerOptions`]) and where it begins, and has an actor from then
//! on. Its workers come and go; what they have not acknowledged is told again.

use std::sync::Arc;

use skytrail_schema::code::{ApiError, Code};

use super::cursor::Cursor;
use super::dispatcher::LogWorker;
use super::messages::ConsumerState;
use super::registry::{Consumers, stopping};
use super::store::{ConsumerChange, ConsumerCheckpoint, LogConsumerOptions};
use crate::spawn::to_its_end;

/// How the names of consumers of the log begin among all consumers; no plugin's does.
pub const LOG_PREFIX: &str = "log/";

/// The longest name.
const MAX_NAME: usize = 64;

impl Consumers {
    /// Makes a consumer of the log that is told what is behind `position`; one that is there with
    /// the same options stays as it is. Durable when it answers.
    ///
    /// # Errors
    /// 108 for what is no name; 109 for one that is told something else; the ops store is not writable.
    pub async fn create_consumer(
        &self,
        name: &str,
        options: LogConsumerOptions,
        position: u64,
    ) -> Result<ConsumerState, ApiError> {
        let full = full_name(name)?;
        let this = self.clone();
        let made = to_its_end("make a consumer", async move {
            this.make_consumer(full, options, position).await
        });
        made.await.unwrap_or_else(|| Err(stopping()))
    }

    async fn make_consumer(
        &self,
        full: Arc<str>,
        options: LogConsumerOptions,
        position: u64,
    ) -> Result<ConsumerState, ApiError> {
        let _alone = self.lock_changes().await;
        if let Ok(known) = self.find(&full) {
            if known.options() != Some(&options) {
                let message = "there is a consumer of this name that is told something else";
                return Err(ApiError::new(Code::Duplicated, message));
            }
            return Ok(known.state());
        }
        let checkpoint = ConsumerCheckpoint {
            cursor: Cursor::at(position),
            log: Some(options),
            ..ConsumerCheckpoint::default()
        };
        let change = ConsumerChange {
            checkpoint: checkpoint.clone(),
            ..ConsumerChange::default()
        };
        self.save_new(&full, &change).await?;
        let handle = self.consumer(&full).ok_or_else(stopping)?;
        // It has looked for its workers then.
        handle.keep().await;
        Ok(handle.state())
    }

    /// Forgets a consumer of the log with everything that is kept of it, and sends its workers away.
    ///
    /// # Errors
    /// 110 for one that is not known; the ops store is not writable.
    pub async fn delete_consumer(&self, name: &str) -> Result<(), ApiError> {
        let full = full_name(name)?;
        let handle = self.find(&full)?;
        self.remove(&full, handle).await
    }

    /// Takes a worker on for a consumer of the log, with room for so many events at once.
    ///
    /// # Errors
    /// 110 for one that is not known.
    pub fn work_for(&self, name: &str, window: usize) -> Result<LogWorker, ApiError> {
        let handle = self.find(&full_name(name)?)?;
        let worker = handle
            .log()
            .and_then(|side| side.dispatcher.add_worker(window));
        worker.ok_or_else(stopping)
    }
}

fn full_name(name: &str) -> Result<Arc<str>, ApiError> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
        let message =
            format!("consumer should be a name of 1 to {MAX_NAME} letters, digits, dots, - and _");
        return Err(ApiError::invalid_argument(message, &["consumer"]));
    }
    Ok(format!("{LOG_PREFIX}{name}").into())
}
