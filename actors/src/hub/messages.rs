//! The messages to a hub.

use actix::{Context, Message};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::oneshot;

use super::{Frames, Hub, HubState, ListenerId};

/// Adds a listener. Replies with its number and where its frames arrive.
#[derive(Debug)]
pub struct Connect;

impl Message for Connect {
    type Result = Connected;
}

/// A new listener.
#[derive(Debug)]
pub struct Connected {
    /// Its number.
    pub id: ListenerId,
    /// What it hears. The frames end when it is dropped for not reading.
    pub frames: Frames,
    /// Ends, without a value, when the hub no longer knows the listener.
    pub dropped: oneshot::Receiver<()>,
}

/// Removes a listener. Replies when it gets nothing more, and what it published before has been
/// published.
#[derive(Debug)]
pub struct Disconnect(pub ListenerId);

impl Message for Disconnect {
    type Result = ();
}

/// Lets a listener hear a channel. Replies once it hears what is published from then on.
#[derive(Debug)]
pub struct Subscribe {
    /// The listener.
    pub id: ListenerId,
    /// The channel.
    pub channel: String,
}

impl Message for Subscribe {
    type Result = Result<(), TooManyChannels>;
}

/// A listener already hears as many channels as allowed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a socket can subscribe to at most {max} channels")]
pub struct TooManyChannels {
    /// How many are allowed.
    pub max: usize,
}

/// Makes a listener stop hearing a channel.
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

/// Publishes on channels. Replies when the message is in every listener's queue.
#[derive(Debug)]
pub struct Publish {
    /// The channels.
    pub channels: Vec<String>,
    /// The data; passed through unchanged.
    pub data: Box<RawValue>,
}

impl Publish {
    /// Publishes something of the server's own.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn new<T: Serialize>(channels: Vec<String>, data: &T) -> serde_json::Result<Self> {
        let data = to_raw_value(data)?;
        Ok(Self { channels, data })
    }
}

impl Message for Publish {
    type Result = ();
}

/// Publishes on one channel, also for listeners that connect within two minutes.
///
/// Of several messages with one key such a listener gets the last, unless it has received it over
/// the same connection. Replies when the message is in every listener's queue, and kept.
#[derive(Debug)]
pub struct Announce {
    /// The channel.
    pub channel: String,
    /// What it is about.
    pub key: String,
    /// The data; passed through unchanged.
    pub data: Box<RawValue>,
}

impl Announce {
    /// Announces something of the server's own.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn new<T: Serialize>(channel: String, key: String, data: &T) -> serde_json::Result<Self> {
        let data = to_raw_value(data)?;
        Ok(Self { channel, key, data })
    }
}

impl Message for Announce {
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
