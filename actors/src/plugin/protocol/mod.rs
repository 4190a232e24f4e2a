//! The messages between server and worker: one JSON object per text frame.
//!
//! [`parse`] reads what a worker sends and never panics, whatever bytes come; [`ServerFrame`]
//! writes what the server sends. Members that are not known are ignored both ways, so that either
//! side may be newer. What a message means is the connection's business.

mod incoming;
mod outgoing;

pub use incoming::{
    CallMessage, FrameError, Hello, Outcome, ResponseMessage, Resume, WorkerFrame, WorkerMessage,
    parse,
};
pub use outgoing::{
    CancelReason, Problem, RequestMessage, ServerFrame, ServerMessage, WelcomeMessage,
};

/// The subprotocol that this server speaks.
pub const SUBPROTOCOL: &str = "skygear.plugin.v1";

/// How deep arrays and objects may be nested in a message.
pub const MAX_DEPTH: usize = 64;

/// The ability to come back to a session after its transport was lost.
pub const RESUME: &str = "resume";

/// The ability to be told what a request delivers.
pub const DELIVER: &str = "deliver";

/// The most requests a worker may take at once.
pub const MAX_WINDOW: usize = 1024;

/// How many requests a worker takes at once when it does not say.
pub const DEFAULT_WINDOW: usize = 16;

/// Why the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum CloseCode {
    /// Nothing runs any more.
    Drained,
    /// A message was too large.
    TooLarge,
    /// The server restarts.
    Restart,
    /// The plugin has as many workers as it may.
    TooManyWorkers,
    /// The worker broke the protocol.
    ProtocolError,
    /// Nobody configured a plugin of that name.
    UnknownPlugin,
    /// The registration was refused, or came too late.
    RegistrationRefused,
    /// A newer generation of the plugin is known.
    OlderGeneration,
    /// Nothing was heard for too long, or the worker does not read.
    HeartbeatLost,
    /// The worker came back over another transport.
    TakenOver,
    /// No slot of the window has been answered for too long.
    AllStuck,
    /// No `hello` came.
    NoHello,
}

impl CloseCode {
    /// Returns the number in the close frame.
    pub fn number(self) -> u16 {
        match self {
            Self::Drained => 1000,
            Self::TooLarge => 1009,
            Self::Restart => 1012,
            Self::TooManyWorkers => 1013,
            Self::ProtocolError => 4002,
            Self::UnknownPlugin => 4003,
            Self::RegistrationRefused => 4004,
            Self::OlderGeneration => 4005,
            Self::HeartbeatLost => 4006,
            Self::TakenOver => 4007,
            Self::AllStuck => 4008,
            Self::NoHello => 4010,
        }
    }
}
