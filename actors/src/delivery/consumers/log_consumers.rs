//! Consumers of the log: other programs that are told of events, each under a name, as plugins are.
//!
//! One is created with its options ([`LogConsumerOptions`]) and its start position, and has an
//! actor from then on. Its workers come and go; what they have not acknowledged is sent again.

use std::sync::Arc;

use skytrail_schema::code::{ApiError, Code};

use super::cursor::Cursor;
use super::dispatcher::LogWorker;
use super::messages::ConsumerState;
use super::registry::{Consumers, stopping};
use super::store::{ConsumerChange, ConsumerCheckpoint, LogConsumerOptions};
use crate::spawn::run_to_completion;

/// The prefix of a log consumer's name among all consumers; no plugin's name has it.
pub const LOG_PREFIX: &str = "log/";

/// The maximum length of a name.
const MAX_NAME: usize = 64;

impl Consumers {
    /// Returns what a consumer of the log was created with; `None` if there is no such consumer.
    pub fn log_options(&self, name: &str) -> Option<LogConsumerOptions> {
        let handle = self.find(&full_name(name).ok()?).ok()?;
        handle.options().cloned()
    }

    /// Creates a consumer of the log that is told what follows `position`; an existing one with the
    /// same options is left as it is. Durable on return.
    ///
    /// # Errors
    /// 108 for an invalid name; 109 if one exists with other options; the ops store cannot be
    /// written.
    pub async fn create_consumer(
        &self,
        name: &str,
        options: LogConsumerOptions,
        position: u64,
    ) -> Result<ConsumerState, ApiError> {
        let full = full_name(name)?;
        let this = self.clone();
        let made = run_to_completion("make a consumer", async move {
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
        if let Ok(existing) = self.find(&full) {
            if existing.options() != Some(&options) {
                let message = "a consumer with this name exists, with other options";
                return Err(ApiError::new(Code::Duplicated, message));
            }
            return Ok(existing.state());
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
        // By then it has looked for its workers.
        handle.keep().await;
        Ok(handle.state())
    }

    /// Deletes a consumer of the log with everything that is stored about it, and disconnects its
    /// workers.
    ///
    /// # Errors
    /// 110 for an unknown consumer; the ops store cannot be written.
    pub async fn delete_consumer(&self, name: &str) -> Result<(), ApiError> {
        let full = full_name(name)?;
        let handle = self.find(&full)?;
        self.remove(&full, handle).await
    }

    /// Adds a worker to a consumer of the log, with a window of this many events.
    ///
    /// # Errors
    /// 110 for an unknown consumer.
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
