//! The hub: channels, and the sockets that listen to them.
//!
//! Each hub is an actor, so that what one publisher publishes on a channel
//! arrives in order. A listener has a queue of its own; one that is full is
//! dropped with a reason rather than waited for, so a slow listener delays
//! nobody. Nothing is kept: who is not there misses the message.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actix::{Actor, Addr, Arbiter, Context, Handler, Message};
use serde::Serialize;
use serde_json::Value as Json;
use tokio::sync::mpsc;

/// How many messages may wait for one listener.
pub const LISTENER_QUEUE: usize = 256;
/// How many messages may wait for the hub itself.
const MAILBOX: usize = 4096;

/// A listener's number, unique in its hub.
pub type ListenerId = u64;

/// What a listener gets: frames ready to be sent.
pub type Frames = mpsc::Receiver<Arc<str>>;

/// What a hub says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HubState {
    /// Sockets connected.
    pub num_listeners: usize,
    /// Channels with at least one listener.
    pub num_channels: usize,
    /// Messages published since the start.
    pub num_published: u64,
    /// Listeners dropped because they did not read.
    pub num_dropped: u64,
}

/// See the module's overview.
#[derive(Default)]
pub struct Hub {
    listeners: HashMap<ListenerId, Listener>,
    channels: HashMap<String, HashSet<ListenerId>>,
    next_id: ListenerId,
    num_published: u64,
    num_dropped: u64,
}

struct Listener {
    frames: mpsc::Sender<Arc<str>>,
    channels: HashSet<String>,
}

impl Hub {
    /// Starts a hub on a thread of the given arbiter.
    pub fn start_on(arbiter: &Arbiter) -> Addr<Self> {
        Self::start_in_arbiter(&arbiter.handle(), |_| Self::default())
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
        if let Some(ids) = self.channels.get_mut(channel) {
            ids.remove(&id);
            if ids.is_empty() {
                self.channels.remove(channel);
            }
        }
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// Adds a listener. Replies with its number and where its frames come.
#[derive(Debug)]
pub struct Connect;

impl Message for Connect {
    type Result = Connected;
}

/// A listener's number and frames. The frames end when it is dropped for not reading.
#[derive(Debug)]
pub struct Connected {
    /// The number.
    pub id: ListenerId,
    /// The frames.
    pub frames: Frames,
}

/// Removes a listener. Replies when it gets nothing more.
#[derive(Debug)]
pub struct Disconnect(pub ListenerId);

impl Message for Disconnect {
    type Result = ();
}

/// Lets a listener hear a channel. Replies when it hears what is published from now on.
#[derive(Debug)]
pub struct Subscribe {
    /// The listener.
    pub id: ListenerId,
    /// The channel.
    pub channel: String,
}

impl Message for Subscribe {
    type Result = ();
}

/// Lets a listener no longer hear a channel.
#[derive(Debug)]
pub struct Unsubscribe {
    /// The listener.
    pub id: ListenerId,
    /// The channel.
    pub channel: String,
}

impl Message for Unsubscribe {
    type Result = ();
}

/// Publishes on channels. Replies when it is in every listener's queue.
#[derive(Debug)]
pub struct Publish {
    /// The channels.
    pub channels: Vec<String>,
    /// What; passed through as it is.
    pub data: Json,
}

impl Message for Publish {
    type Result = ();
}

/// Asks for the state.
#[derive(Debug)]
pub struct GetHubState;

impl Message for GetHubState {
    type Result = Reported;
}

/// A hub's state as a reply.
#[derive(Clone, Copy, Debug)]
pub struct Reported(pub HubState);

impl<M: Message<Result = Self>> actix::dev::MessageResponse<Hub, M> for Reported {
    fn handle(self, _: &mut Context<Hub>, sender: Option<actix::dev::OneshotSender<Self>>) {
        if let Some(sender) = sender {
            let _ = sender.send(self);
        }
    }
}

impl<M: Message<Result = Self>> actix::dev::MessageResponse<Hub, M> for Connected {
    fn handle(self, _: &mut Context<Hub>, sender: Option<actix::dev::OneshotSender<Self>>) {
        if let Some(sender) = sender {
            let _ = sender.send(self);
        }
    }
}

impl Handler<Connect> for Hub {
    type Result = Connected;

    fn handle(&mut self, _: Connect, _: &mut Self::Context) -> Connected {
        let (sender, frames) = mpsc::channel(LISTENER_QUEUE);
        self.next_id += 1;
        let listener = Listener {
            frames: sender,
            channels: HashSet::new(),
        };
        self.listeners.insert(self.next_id, listener);
        Connected {
            id: self.next_id,
            frames,
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
    type Result = ();

    fn handle(&mut self, message: Subscribe, _: &mut Self::Context) {
        let Some(listener) = self.listeners.get_mut(&message.id) else {
            return;
        };
        listener.channels.insert(message.channel.clone());
        self.channels
            .entry(message.channel)
            .or_default()
            .insert(message.id);
    }
}

impl Handler<Unsubscribe> for Hub {
    type Result = ();

    fn handle(&mut self, message: Unsubscribe, _: &mut Self::Context) {
        if let Some(listener) = self.listeners.get_mut(&message.id) {
            listener.channels.remove(&message.channel);
        }
        self.forget(&message.channel, message.id);
    }
}

impl Handler<Publish> for Hub {
    type Result = ();

    fn handle(&mut self, message: Publish, _: &mut Self::Context) {
        for channel in message.channels {
            self.num_published += 1;
            let Some(ids) = self.channels.get(&channel) else {
                continue;
            };
            let frame = serde_json::json!({"channel": channel, "data": message.data});
            let frame: Arc<str> = frame.to_string().into();
            let send = |id: &ListenerId| {
                let listener = self.listeners.get(id)?;
                listener
                    .frames
                    .try_send(Arc::clone(&frame))
                    .err()
                    .map(|_| *id)
            };
            let lost: Vec<ListenerId> = ids.iter().filter_map(send).collect();
            for id in lost {
                self.num_dropped += 1;
                tracing::warn!(listener = id, "a listener does not read and is dropped");
                self.drop_listener(id);
            }
        }
    }
}

impl Handler<GetHubState> for Hub {
    type Result = Reported;

    fn handle(&mut self, _: GetHubState, _: &mut Self::Context) -> Reported {
        Reported(HubState {
            num_listeners: self.listeners.len(),
            num_channels: self.channels.len(),
            num_published: self.num_published,
            num_dropped: self.num_dropped,
        })
    }
}

#[cfg(test)]
mod tests;
