//! Watches a consumer until everything that is to be delivered has been delivered.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value as Json, json};
use tokio::time::sleep;

use super::complain;
use super::remote::RunningServer;

/// The pause between two requests for the state.
const PAUSE: Duration = Duration::from_millis(250);

/// A consumer's position, its lag and its open deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    position: u64,
    lag: u64,
    open: u64,
    /// Deliveries that are finished, however they ended.
    over: u64,
}

impl Progress {
    fn at(state: &Json) -> Self {
        let number = |name: &str| state.get(name).and_then(Json::as_u64).unwrap_or_default();
        Self {
            position: number("position"),
            lag: number("lag"),
            open: number("open"),
            over: number("delivered") + number("dead_letters") + number("skipped"),
        }
    }

    /// Returns whether everything that was open at `begun` has been delivered. While new events
    /// arrive, something is always open, so only what was open then counts.
    fn is_done_since(self, begun: Self) -> bool {
        let is_caught_up = self.position >= begun.position + begun.lag;
        let is_delivered = self.open == 0 || self.over >= begun.over + begun.open;
        is_caught_up && is_delivered
    }
}

/// Waits until a consumer has received what it had not received at `begun`; returns its state. If
/// no worker is connected, waits for one, and says so.
///
/// # Errors
/// Returns a sentence: the server or the consumer is gone, or the consumer is paused.
pub(super) async fn until_done(server: &RunningServer, begun: &Json) -> Result<Json, String> {
    let name = begun.get("name").cloned().unwrap_or_default();
    let first = Progress::at(begun);
    let bar = ProgressBar::new(first.lag + first.open);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} delivered {per_sec} {eta}");
    bar.set_style(style.map_err(|error| error.to_string())?);
    let mut is_alone = false;
    loop {
        let listed = server.call("delivery:list", json!({})).await?;
        let listed = listed.as_array().cloned().unwrap_or_default();
        let mut states = listed.into_iter();
        let state = states.find(|state| state.get("name") == Some(&name));
        let state = state.ok_or_else(|| format!("{name} no longer exists"))?;
        let progress = Progress::at(&state);
        let events = progress
            .position
            .saturating_sub(first.position)
            .min(first.lag);
        let again = progress.over.saturating_sub(first.over).min(first.open);
        bar.set_position(events + again);
        let now = state.get("state").and_then(Json::as_str);
        if progress.is_done_since(first) {
            bar.finish_and_clear();
            return Ok(state);
        }
        let name = name.as_str().unwrap_or_default();
        if now == Some("paused") {
            bar.finish_and_clear();
            return Err(format!(
                "{name} is paused: the deliveries follow after `skytrail delivery resume {name}`"
            ));
        }
        let was_alone = std::mem::replace(&mut is_alone, now != Some("running"));
        if is_alone && !was_alone {
            bar.suspend(|| {
                complain(&format!(
                    "{name} has no worker now: waiting for one; stopping this command stops no \
                     delivery"
                ));
            });
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_when_what_was_open_then_is_over() {
        let progress = |position, lag, open, over| Progress {
            position,
            lag,
            open,
            over,
        };
        let begun = progress(10, 5, 3, 100);
        assert!(!progress(10, 5, 3, 100).is_done_since(begun));
        assert!(!progress(15, 0, 1, 102).is_done_since(begun));
        assert!(!progress(14, 1, 0, 103).is_done_since(begun));
        assert!(progress(15, 9, 4, 103).is_done_since(begun), "others came");
        assert!(
            progress(15, 0, 0, 100).is_done_since(begun),
            "nothing of it was wanted"
        );
    }
}
