//! What is kept for those who are away for a moment: the newest message under each key of a channel
//! that nobody hears, for two minutes, within bounds.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Longer than published clients take until they connect again.
const KEPT_FOR: Duration = Duration::from_secs(120);
/// Of one channel; the oldest goes.
const MAX_MESSAGES: usize = 32;
/// Of all; a message for one more is not kept.
const MAX_CHANNELS: usize = 10_000;
/// How often what is too old is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// See the module's overview.
#[derive(Debug)]
pub(super) struct Kept {
    channels: HashMap<String, Vec<Message>>,
    swept: Instant,
}

#[derive(Debug)]
struct Message {
    key: String,
    frame: Bytes,
    since: Instant,
}

impl Kept {
    pub(super) fn new(now: Instant) -> Self {
        let channels = HashMap::new();
        Self {
            channels,
            swept: now,
        }
    }

    /// Keeps a message in the place of the one with the same key.
    pub(super) fn put(&mut self, channel: &str, key: String, frame: Bytes, now: Instant) {
        if now - self.swept >= SWEEP_EVERY {
            self.sweep(now);
        }
        if !self.channels.contains_key(channel) && self.channels.len() >= MAX_CHANNELS {
            return;
        }
        let messages = self.channels.entry(channel.to_owned()).or_default();
        messages.retain(|message| message.key != key);
        if messages.len() >= MAX_MESSAGES {
            messages.remove(0);
        }
        let since = now;
        messages.push(Message { key, frame, since });
    }

    /// Gives away what is kept for a channel, in the order in which it came.
    pub(super) fn take(&mut self, channel: &str, now: Instant) -> Vec<Bytes> {
        let messages = self.channels.remove(channel).unwrap_or_default();
        let fresh = messages.into_iter().filter(|message| message.is_fresh(now));
        fresh.map(|message| message.frame).collect()
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        self.channels.retain(|_, messages| {
            messages.retain(|message| message.is_fresh(now));
            !messages.is_empty()
        });
    }
}

impl Message {
    fn is_fresh(&self, now: Instant) -> bool {
        now - self.since < KEPT_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(kept: &mut Kept, channel: &str, now: Instant) -> Vec<Bytes> {
        kept.take(channel, now)
    }

    #[test]
    fn the_newest_of_each_key_is_kept_in_order_and_given_once() {
        let now = Instant::now();
        let mut kept = Kept::new(now);
        for (key, frame) in [("a", "1"), ("b", "2"), ("a", "3")] {
            kept.put("c", key.to_owned(), frame.into(), now);
        }
        assert_eq!(frames(&mut kept, "other", now), [""; 0]);
        assert_eq!(frames(&mut kept, "c", now), ["2", "3"]);
        assert_eq!(frames(&mut kept, "c", now), [""; 0]);
    }

    #[test]
    fn nothing_is_kept_for_long_or_without_bounds() {
        let now = Instant::now();
        let mut kept = Kept::new(now);
        for number in 0..MAX_MESSAGES + 2 {
            kept.put("c", number.to_string(), number.to_string().into(), now);
        }
        for number in 0..MAX_CHANNELS + 2 {
            kept.put(&format!("many-{number}"), String::new(), "x".into(), now);
        }
        assert_eq!(kept.channels.len(), MAX_CHANNELS);
        let held = frames(&mut kept, "c", now);
        assert_eq!((held.len(), &*held[0]), (MAX_MESSAGES, &b"2"[..]));
        let later = now + KEPT_FOR;
        assert_eq!(frames(&mut kept, "many-1", later), [""; 0]);
        kept.put("c", String::new(), "x".into(), later);
        assert_eq!(kept.channels.len(), 1);
    }
}
