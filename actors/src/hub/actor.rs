//! The actor.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actix::{Actor, Addr, Arbiter, Context, Handler};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::outbox::{Outbox, PushError, outbox};
use super::retained::RetainedMessages;
use super::{
    Announce, Connect, Connected, Disconnect, GetHubState, HubSettings, HubState, ListenerId,
    Publish, Reported, Subscribe, TooManyChannels, Unsubscribe,
};

/// How many messages can wait for the hub itself.
const MAILBOX: usize = 4096;

/// See the module's overview.
pub struct Hub {
    settings: HubSettings,
    listeners: HashMap<ListenerId, Listener>,
    channels: HashMap<Arc<str>, HashMap<ListenerId, Arc<Outbox>>>,
    retained: RetainedMessages,
    next_id: ListenerId,
    num_published: u64,
    num_delivered: u64,
    num_dropped: u64,
}

struct Listener {
    outbox: Arc<Outbox>,
    channels: HashSet<Arc<str>>,
    /// When this is dropped, its other end is notified.
    _dropped: oneshot::Sender<()>,
}

impl Hub {
    /// Builds a hub that nobody listens to.
    pub fn new(settings: HubSettings) -> Self {
        Self {
            settings,
            listeners: HashMap::new(),
            channels: HashMap::new(),
            retained: RetainedMessages::new(Instant::now()),
            next_id: 0,
            num_published: 0,
            num_delivered: 0,
            num_dropped: 0,
        }
    }

    /// Starts a hub on a thread of the given arbiter.
    pub fn start_on(arbiter: &Arbiter, settings: HubSettings) -> Addr<Self> {
        Self::start_in_arbiter(&arbiter.handle(), move |_| Self::new(settings))
    }

    fn drop_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.remove(&id) else {
            return;
        };
        for channel in listener.channels {
            self.forget(&channel, id);
        }
    }

    fn forget(&mut self, channel: &str, id: ListenerId) {
        if let Some(listeners) = self.channels.get_mut(channel) {
            listeners.remove(&id);
            if listeners.is_empty() {
                self.channels.remove(channel);
            }
        }
    }

    /// Puts a message into the queues of a channel.
    fn deliver(&mut self, channel: &str, frame: &Bytes) {
        let Some(listeners) = self.channels.get(channel) else {
            return;
        };
        let mut full = Vec::new();
        for (id, outbox) in listeners {
            match outbox.push(frame) {
                Ok(()) => self.num_delivered += 1,
                Err(PushError::Full) => full.push(*id),
                Err(PushError::Gone) => {}
            }
        }
        for id in full {
            self.num_dropped += 1;
            tracing::warn!(listener = id, "a listener does not read and is dropped");
            self.drop_listener(id);
        }
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Connect> for Hub {
    type Result = Connected;

    fn handle(&mut self, _: Connect, _: &mut Self::Context) -> Connected {
        let (outbox, frames) = outbox(self.settings.queue_messages, self.settings.queue_bytes);
        let (dropped, is_dropped) = oneshot::channel();
        self.next_id += 1;
        let listener = Listener {
            outbox: Arc::new(outbox),
            channels: HashSet::new(),
            _dropped: dropped,
        };
        self.listeners.insert(self.next_id, listener);
        Connected {
            id: self.next_id,
            frames,
            dropped: is_dropped,
        }
    }
}

impl Handler<Disconnect> for Hub {
    type Result = ();

    fn handle(&mut self, Disconnect(id): Disconnect, _: &mut Self::Context) {
        self.drop_listener(id);
    }
}

impl Handler<Subscribe> for Hub {
    type Result = Result<(), TooManyChannels>;

    fn handle(&mut self, message: Subscribe, _: &mut Self::Context) -> Self::Result {
        let Subscribe { id, channel } = message;
        // A listener that was dropped hears nothing, and learns of that by other means.
        let Some(listener) = self.listeners.get_mut(&id) else {
            return Ok(());
        };
        if listener.channels.contains(channel.as_str()) {
            return Ok(());
        }
        let max = self.settings.max_channels;
        if listener.channels.len() >= max {
            return Err(TooManyChannels { max });
        }
        // All listeners of a channel share its name.
        let interned = self.channels.get_key_value(channel.as_str());
        let name = interned.map_or_else(|| channel.as_str().into(), |(name, _)| Arc::clone(name));
        listener.channels.insert(Arc::clone(&name));
        let outbox = Arc::clone(&listener.outbox);
        for frame in self.retained.give(&channel, id, Instant::now()) {
            // A listener that cannot take these is dropped with the next message.
            self.num_delivered += u64::from(outbox.push(&frame).is_ok());
        }
        self.channels.entry(name).or_default().insert(id, outbox);
        Ok(())
    }
}

impl Handler<Unsubscribe> for Hub {
    type Result = ();

    fn handle(&mut self, message: Unsubscribe, _: &mut Self::Context) {
        if let Some(listener) = self.listeners.get_mut(&message.id) {
            listener.channels.remove(message.channel.as_str());
        }
        self.forget(&message.channel, message.id);
    }
}

impl Handler<Publish> for Hub {
    type Result = ();

    fn handle(&mut self, message: Publish, _: &mut Self::Context) {
        for channel in &message.channels {
            self.num_published += 1;
            if self.channels.contains_key(channel.as_str()) {
                let frame = (self.settings.encode)(channel, &message.data);
                self.deliver(channel, &frame);
            }
        }
    }
}

impl Handler<Announce> for Hub {
    type Result = ();

    fn handle(&mut self, message: Announce, _: &mut Self::Context) {
        let Announce { channel, key, data } = message;
        self.num_published += 1;
        let listeners = self.channels.get(channel.as_str());
        let heard_by = listeners.map(|all| all.keys().copied().collect());
        let frame = (self.settings.encode)(&channel, &data);
        self.deliver(&channel, &frame);
        let message = (key, frame);
        let now = Instant::now();
        self.retained
            .put(&channel, message, heard_by.unwrap_or_default(), now);
    }
}

impl Handler<GetHubState> for Hub {
    type Result = Reported;

    fn handle(&mut self, _: GetHubState, _: &mut Self::Context) -> Reported {
        Reported(HubState {
            num_listeners: self.listeners.len(),
            num_channels: self.channels.len(),
            num_published: self.num_published,
            num_delivered: self.num_delivered,
            num_dropped: self.num_dropped,
        })
    }
}
