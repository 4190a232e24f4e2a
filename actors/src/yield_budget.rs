//! Letting other tasks run after a certain amount of work, on a thread that many share.

/// After this many bytes other tasks get a turn. In tests they always do, so that everything that
/// can happen in between does happen.
const TURN: u64 = if cfg!(test) { 0 } else { 1 << 20 };

/// Counts the work since other tasks had a turn.
#[derive(Debug, Default)]
pub(crate) struct YieldBudget(u64);

impl YieldBudget {
    /// Counts bytes that were read or written; lets other tasks run when it is their turn.
    pub(crate) async fn after(&mut self, num_bytes: u64) {
        self.0 = self.0.saturating_add(num_bytes);
        if self.0 > TURN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}
