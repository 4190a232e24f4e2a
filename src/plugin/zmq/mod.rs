//! The transport `zmq`: v1's broker, to which a plugin's workers connect with ZeroMQ's DEALER
//! sockets.
//!
//! From the bytes inwards: `wire` (ZMTP) and `endpoint` (addresses), `socket` (connections, each a
//! task; `budget`: how much memory they may take), `message` (v1's signals and messages), `bodies`
//! (the JSON in them), `pool` (which worker has which request: a state machine without I/O and
//! clock), `workers` (the pool with its connections and waiting callers), `transport` (the link
//! between the plugin's session and the workers).

mod bodies;
mod budget;
mod endpoint;
mod message;
mod pool;
mod socket;
mod transport;
mod wire;
mod workers;

pub use endpoint::Endpoint;
pub(super) use transport::{Rules, Zmq};
