//! Letting other tasks run after so much work, on a thread that many share.

/// After so many bytes others get their turn. In tests it is always somebody else's, so that whatever
/// may happen in between does.
const TURN: u64 = if cfg!(test) { 0 } else { 1 << 20 };

/// Counts what was done since others had their turn.
#[derive(Debug, Default)]
pub(crate) struct Breath(u64);

impl Breath {
    /// So many bytes were looked at or written; lets others have their turn when it is theirs.
    pub(crate) async fn after(&mut self, num_bytes: u64) {
        self.0 = self.0.saturating_add(num_bytes);
        if self.0 > TURN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}
