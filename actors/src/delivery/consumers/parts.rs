//! The parts that consumers work with.

use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::time::Timestamp;
use tokio_util::sync::CancellationToken;

use super::announced::AnnouncedCommits;
use super::dispatcher::Dispatcher;
use super::store::{ConsumerStore, LogConsumerOptions};
use crate::record::env::RecordEnv;

/// How deliveries are retried and given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// The number of attempts after which a delivery is given up.
    pub max_attempts: u32,
    /// Events older than this are skipped.
    pub max_lag: Duration,
    /// How long a caller waits for a delivery while no worker is connected.
    pub rejoin_wait: Duration,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            max_lag: Duration::from_secs(168 * 3600),
            rejoin_wait: Duration::from_secs(5),
        }
    }
}

/// The parts of every consumer.
#[derive(Clone)]
pub(super) struct ConsumerParts {
    /// The consumer's name.
    pub(super) name: Arc<str>,
    pub(super) recipient: Recipient,
    pub(super) env: RecordEnv,
    pub(super) store: Arc<dyn ConsumerStore>,
    pub(super) announced_commits: Arc<AnnouncedCommits>,
    pub(super) settings: DeliverySettings,
    /// Cancelled when nothing may be started any more, because the server is stopping.
    pub(super) ending: CancellationToken,
}

impl ConsumerParts {
    /// Returns whether a commit of this time is skipped, unless an operator asks for it.
    pub(super) fn is_too_old(&self, committed_at: Timestamp) -> bool {
        let age = self.env.clock.now().micros();
        let age = age.saturating_sub(committed_at.micros());
        u128::try_from(age).is_ok_and(|age| age > self.settings.max_lag.as_micros())
    }
}

/// The name of the single task that an event is to a consumer of the log.
pub(super) const LOG_TASK: &str = "event";

/// The recipient of deliveries.
#[derive(Clone)]
pub(super) enum Recipient {
    /// A plugin, through its after-hooks.
    Plugin,
    /// Workers of another program, which consumes the log itself.
    Log(Arc<LogSide>),
}

/// The options of a consumer of the log, and its workers.
pub(super) struct LogSide {
    pub(super) options: LogConsumerOptions,
    pub(super) dispatcher: Arc<Dispatcher>,
}

impl Recipient {
    /// Returns the recipient; a plugin if there are no options.
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
