//! The messages between server and worker: one JSON object per text frame.
//!
//! [`parse`] reads what a worker sends and never panics, whatever bytes arrive; [`ServerFrame`]
//! serializes what the server sends. Both sides ignore unknown members, so either side may be
//! newer. The connection decides what a message means.

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

/// How deeply arrays and objects can be nested in a message.
pub const MAX_DEPTH: usize = 64;

/// The feature of coming back to a session after its transport was lost.
pub const RESUME: &str = "resume";

/// The feature of being told what a request delivers.
pub const DELIVER: &str = "deliver";

/// The maximum number of requests that a worker can take at once.
pub const MAX_WINDOW: usize = 1024;

/// How many requests a worker takes at once if it does not say.
pub const DEFAULT_WINDOW: usize = 16;

/// Why the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum CloseCode {
    /// Nothing is in flight any more.
    Drained,
    /// A message was too large.
    TooLarge,
    /// The server is restarting.
    Restart,
    /// The plugin has the maximum number of workers.
    TooManyWorkers,
    /// The worker broke the protocol.
    ProtocolError,
    /// No plugin with that name is configured.
    UnknownPlugin,
    /// The registration was refused, or came too late.
    RegistrationRefused,
    /// A newer generation of the plugin is known.
    OlderGeneration,
    /// Nothing was received for too long, or the worker does not read.
    HeartbeatLost,
    /// The worker came back over another transport.
    TakenOver,
    /// All slots of the window have been unanswered for too long.
    AllStuck,
    /// No `hello` arrived.
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
