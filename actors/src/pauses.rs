//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// The longest pause, in seconds.
const LONGEST_S: u64 = 300;

/// Returns the pause after this many failures: 1, 2, 4 … 300 s.
pub fn pause_after(num_failures: u32) -> Duration {
    let doubled = 2_u64.saturating_pow(num_failures.saturating_sub(1));
    Duration::from_secs(doubled.min(LONGEST_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let pauses = (1..12).map(|num_failures| pause_after(num_failures).as_secs());
        let pauses: Vec<u64> = pauses.collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(pause_after(u32::MAX).as_secs(), 300);
    }
}
