//! Sent messages that the worker has not acknowledged; a worker that comes back gets them again.
//! Pure.

use std::collections::VecDeque;

/// Numbered messages in order, within bounds.
#[derive(Debug)]
pub(super) struct Unacknowledged {
    messages: VecDeque<(u64, String)>,
    num_bytes: usize,
    /// The highest number that is no longer kept.
    floor: u64,
    max_messages: usize,
    max_bytes: usize,
}

impl Unacknowledged {
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            num_bytes: 0,
            floor: 0,
            max_messages,
            max_bytes,
        }
    }

    /// Keeps a message, and drops the oldest beyond the bounds.
    ///
    /// A worker that never acknowledges must not cost more. It can then come back only if it has
    /// received what was dropped.
    pub(super) fn push(&mut self, seq: u64, text: String) {
        self.num_bytes += text.len();
        self.messages.push_back((seq, text));
        while self.messages.len() > self.max_messages || self.num_bytes > self.max_bytes {
            self.drop_first();
        }
    }

    /// Drops what the worker has received.
    pub(super) fn acknowledge(&mut self, ack: u64) {
        while self.messages.front().is_some_and(|(seq, _)| *seq <= ack) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((seq, text)) = self.messages.pop_front() {
            self.num_bytes -= text.len();
            self.floor = seq;
        }
    }

    /// Returns whether all messages above a number are still kept.
    pub(super) fn has_all_after(&self, received: u64) -> bool {
        received >= self.floor
    }

    /// Returns the messages above a number, in order.
    pub(super) fn after(&self, received: u64) -> impl Iterator<Item = &str> {
        let above = self.messages.iter().filter(move |(seq, _)| *seq > received);
        above.map(|(_, text)| text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unacknowledged(max_messages: usize, max_bytes: usize, count: u64) -> Unacknowledged {
        let mut unacknowledged = Unacknowledged::new(max_messages, max_bytes);
        for seq in 1..=count {
            unacknowledged.push(seq, format!("{seq:04}"));
        }
        unacknowledged
    }

    fn after(unacknowledged: &Unacknowledged, received: u64) -> Vec<&str> {
        unacknowledged.after(received).collect()
    }

    #[test]
    fn what_was_not_acknowledged_is_kept() {
        let mut unacknowledged = unacknowledged(10, 1000, 4);
        assert_eq!(after(&unacknowledged, 2), ["0003", "0004"]);
        unacknowledged.acknowledge(3);
        assert_eq!(after(&unacknowledged, 0), ["0004"]);
        assert!(unacknowledged.has_all_after(3) && !unacknowledged.has_all_after(2));
        unacknowledged.acknowledge(1);
        unacknowledged.acknowledge(4);
        assert!(after(&unacknowledged, 0).is_empty() && unacknowledged.has_all_after(4));
        assert_eq!(unacknowledged.num_bytes, 0);
    }

    #[test]
    fn the_oldest_go_beyond_the_bounds() {
        let by_number = unacknowledged(3, 1000, 5);
        assert_eq!(after(&by_number, 0), ["0003", "0004", "0005"]);
        assert!(by_number.has_all_after(2) && !by_number.has_all_after(1));
        let by_size = unacknowledged(10, 9, 5);
        assert_eq!(after(&by_size, 0), ["0004", "0005"]);
        let too_large = unacknowledged(10, 3, 1);
        assert!(after(&too_large, 0).is_empty());
        assert!(too_large.has_all_after(1) && !too_large.has_all_after(0));
    }
}
