//! What consumers work with.

use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::time::Timestamp;
use tokio_util::sync::CancellationToken;

use super::announced::AnnouncedCommits;
use super::dispatcher::Dispatcher;
use super::store::{ConsumerStore, LogConsumerOptions};
use crate::log::Recent;
use crate::record::env::RecordEnv;

/// How deliveries are tried and given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// After so many attempts a delivery is given up.
    pub max_attempts: u32,
    /// Events older than this are skipped.
    pub max_lag: Duration,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            max_lag: Duration::from_secs(168 * 3600),
        }
    }
}

/// What every consumer works with.
#[derive(Clone)]
pub(super) struct ConsumerParts {
    /// The consumer's name.
    pub(super) name: Arc<str>,
    pub(super) recipient: Recipient,
    pub(super) env: RecordEnv,
    pub(super) store: Arc<dyn ConsumerStore>,
    pub(super) announced_commits: Arc<AnnouncedCommits>,
    pub(super) recent: Arc<Recent>,
    pub(super) settings: DeliverySettings,
    /// Ends when nothing is to be started any more: the server stops.
    pub(super) ending: CancellationToken,
}

impl ConsumerParts {
    /// Returns whether what was committed then is skipped, unless somebody asks for it.
    pub(super) fn is_too_old(&self, committed_at: Timestamp) -> bool {
        let age = self.env.clock.now().micros();
        let age = age.saturating_sub(committed_at.micros());
        u128::try_from(age).is_ok_and(|age| age > self.settings.max_lag.as_micros())
    }
}

/// The one task that an event is for a consumer of the log.
pub(super) const LOG_TASK: &str = "event";

/// Who is told.
#[derive(Clone)]
pub(super) enum Recipient {
    /// A plugin, through its after-hooks.
    Plugin,
    /// Workers of another program, of the log itself.
    Log(Arc<LogSide>),
}

/// What a consumer of the log is told, and where its workers are.
pub(super) struct LogSide {
    pub(super) options: LogConsumerOptions,
    pub(super) dispatcher: Arc<Dispatcher>,
}

impl Recipient {
    /// Returns who is told; a plugin without options.
    pub(super) fn of(log: Option<LogConsumerOptions>) -> Self {
        log.map_or(Self::Plugin, |options| {
            let dispatcher = Dispatcher::new(Duration::from_millis(options.timeout_ms));
            let dispatcher = Arc::new(dispatcher);
            Self::Log(Arc::new(LogSide {
                options,
                dispatcher,
            }))
        })
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Plugin => "plugin",
            Self::Log(_) => "log",
        }
    }
}
