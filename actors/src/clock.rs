//! Time as a parameter, so that tests can control it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skytrail_schema::time::Timestamp;

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Returns the current time, to the microsecond.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that reads the wall clock"
        )]
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// How long a wait sleeps before it looks at the clock again.
const LOOK_PERIOD: Duration = Duration::from_secs(60);
/// A clock that is set back by at most this many microseconds is waited for.
const SMALL_STEP: i64 = 60_000_000;

/// Waits until the clock shows a time.
///
/// The clock can jump, and the timers of the process stand still while the machine sleeps. So the
/// clock is asked again at least once a minute.
pub async fn wait_until(clock: &dyn Clock, at: Timestamp) {
    while let Some(remaining) = until(clock.now(), at) {
        tokio::time::sleep(remaining.min(LOOK_PERIOD)).await;
    }
}

/// Waits until a span has passed on the clock since a time; returns whether it has.
///
/// If the clock is more than a minute before that time, it was set back or is wrong. Nobody knows
/// how much has passed then, so the wait ends at once.
pub async fn wait_since(clock: &dyn Clock, since: Timestamp, span: Duration) -> bool {
    let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let at = Timestamp::from_micros(since.micros().saturating_add(span));
    loop {
        let now = clock.now();
        if is_ahead(since, now) {
            return false;
        }
        let Some(remaining) = until(now, at) else {
            return true;
        };
        tokio::time::sleep(remaining.min(LOOK_PERIOD)).await;
    }
}

/// Returns whether a time that the clock has shown is so far ahead of it that the clock must have
/// been set back.
#[must_use]
pub fn is_ahead(shown: Timestamp, now: Timestamp) -> bool {
    shown.micros().saturating_sub(now.micros()) > SMALL_STEP
}

/// Returns the time that is left; `None` if there is none.
fn until(now: Timestamp, at: Timestamp) -> Option<Duration> {
    let remaining = at.micros().saturating_sub(now.micros());
    let remaining = u64::try_from(remaining).ok().filter(|left| *left > 0)?;
    Some(Duration::from_micros(remaining))
}

/// A clock that stands still until it is moved.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Moves the clock by `jump` half a minute later, and returns how long the wait took then.
    async fn seconds_after<T>(
        clock: &ManualClock,
        jump: i64,
        wait: impl Future<Output = T>,
    ) -> (u64, T) {
        let jumping = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            clock.advance(jump * 1_000_000);
            Instant::now()
        };
        let (jumped, (ended, result)) = tokio::join!(jumping, async {
            let result = wait.await;
            (Instant::now(), result)
        });
        (ended.duration_since(jumped).as_secs(), result)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_sees_within_a_minute_that_the_clock_has_jumped() {
        let clock = ManualClock::default();
        let wait = wait_until(&clock, Timestamp::from_micros(3_600_000_000));
        let (seconds, ()) = seconds_after(&clock, 3600, wait).await;
        assert!(seconds <= 60, "{seconds}");
        let now = clock.now();
        let (seconds, has_passed) =
            seconds_after(&clock, 3600, wait_since(&clock, now, HOUR)).await;
        assert!(has_passed && seconds <= 60, "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_ends_a_wait_for_a_span() {
        let clock = ManualClock::default();
        clock.advance(1_000_000_000_000);
        let now = clock.now();
        let (seconds, has_passed) = seconds_after(&clock, -61, wait_since(&clock, now, HOUR)).await;
        assert!(!has_passed && seconds <= 60, "{seconds}");
        // A small step is waited for.
        let wait = wait_since(
            &clock,
            Timestamp::from_micros(clock.now().micros() + 60_000_000),
            HOUR,
        );
        let (_, has_passed) = seconds_after(&clock, 3660, wait).await;
        assert!(has_passed);
    }
}
