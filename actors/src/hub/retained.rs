//! What is kept for listeners that are briefly away: the newest message under each key of a
//! channel, for two minutes, within bounds.
//!
//! A connected listener may be away, too: a broken network is noticed late.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::ListenerId;

/// Longer than published clients need to reconnect.
const RETAINED_FOR: Duration = Duration::from_secs(120);
/// Per channel; the oldest message is dropped.
const MAX_MESSAGES: usize = 32;
/// In total; a message for one more channel is not kept.
const MAX_CHANNELS: usize = 50_000;
/// How often expired messages are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// See the module's overview.
#[derive(Debug)]
pub(super) struct RetainedMessages {
    channels: HashMap<String, Vec<Message>>,
    swept: Instant,
}

#[derive(Debug)]
struct Message {
    key: String,
    frame: Bytes,
    since: Instant,
    /// The listeners that have received it.
    heard_by: Vec<ListenerId>,
}

impl RetainedMessages {
    pub(super) fn new(now: Instant) -> Self {
        let channels = HashMap::new();
        Self {
            channels,
            swept: now,
        }
    }

    /// Keeps a message, which some listeners have already received. It replaces the one with the
    /// same key.
    pub(super) fn put(
        &mut self,
        channel: &str,
        (key, frame): (String, Bytes),
        heard_by: Vec<ListenerId>,
        now: Instant,
    ) {
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
        messages.push(Message {
            key,
            frame,
            since,
            heard_by,
        });
    }

    /// Returns what is kept for a channel and the listener has not received, in order of arrival.
    pub(super) fn give(&mut self, channel: &str, id: ListenerId, now: Instant) -> Vec<Bytes> {
        let messages = self.channels.get_mut(channel).into_iter().flatten();
        let news = messages.filter(|it| it.is_fresh(now) && !it.heard_by.contains(&id));
        news.map(|message| {
            message.heard_by.push(id);
            message.frame.clone()
        })
        .collect()
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
        now - self.since < RETAINED_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(retained: &mut RetainedMessages, channel: &str, now: Instant) -> Vec<Bytes> {
        retained.give(channel, 7, now)
    }

    #[test]
    fn the_newest_of_each_key_is_kept_in_order_and_given_to_each_once() {
        let now = Instant::now();
        let mut retained = RetainedMessages::new(now);
        for (key, frame) in [("a", "1"), ("b", "2"), ("a", "3")] {
            retained.put("c", (key.to_owned(), frame.into()), Vec::new(), now);
        }
        assert_eq!(frames(&mut retained, "other", now), [""; 0]);
        assert_eq!(frames(&mut retained, "c", now), ["2", "3"]);
        assert_eq!(frames(&mut retained, "c", now), [""; 0]);
        retained.put("c", ("d".to_owned(), "4".into()), vec![7], now);
        assert_eq!(frames(&mut retained, "c", now), [""; 0]);
        assert_eq!(retained.give("c", 8, now), ["2", "3", "4"]);
    }

    #[test]
    fn nothing_is_kept_for_long_or_without_bounds() {
        let now = Instant::now();
        let mut retained = RetainedMessages::new(now);
        for number in 0..MAX_MESSAGES + 2 {
            let message = (number.to_string(), number.to_string().into());
            retained.put("c", message, Vec::new(), now);
        }
        for number in 0..MAX_CHANNELS + 2 {
            let message = (String::new(), "x".into());
            retained.put(&format!("many-{number}"), message, Vec::new(), now);
        }
        assert_eq!(retained.channels.len(), MAX_CHANNELS);
        let held = frames(&mut retained, "c", now);
        assert_eq!((held.len(), &*held[0]), (MAX_MESSAGES, &b"2"[..]));
        let later = now + RETAINED_FOR;
        assert_eq!(frames(&mut retained, "many-1", later), [""; 0]);
        retained.put("c", (String::new(), "x".into()), Vec::new(), later);
        assert_eq!(retained.channels.len(), 1);
    }
}
