//! Plugins: out-of-process programs that hook into the server.
//!
//! The rest of the server sees two ports. Towards the plugins: the extension points ([`ExtensionPoints`],
//! cheap to look up) and [`PluginGate::call`]. From the plugins: [`ApiCaller`], which runs an
//! action that a worker asks for.
//!
//! How a request reaches a worker:
//!
//! 1. [`PluginBroker`], the gate, gives the request a deadline and puts it into the mailbox of
//!    [`Plugins`]. The gate itself answers its caller when the deadline passes: whatever happens
//!    behind it, a caller gets one answer, in time.
//! 2. [`Plugins`], one for the app and one for its sandbox, picks the worker with the smallest
//!    share of its window in use, or queues the request.
//! 3. [`PluginConnection`], one per worker, writes the request to its transport and waits for the
//!    answer. A transport has two parts: it takes texts from a [`transport::Outgoing`], and it
//!    sends [`messages::FromTransport`]s. The actor knows nothing about sockets.
//!
//! A worker that does not answer holds a slot of its own window and nothing else.

mod broker;
mod caller;
mod connection;
pub(crate) mod errors;
mod figures;
mod gate;
pub mod messages;
mod points;
pub mod protocol;
mod recent;
pub mod registration;
mod registration_log;
mod routes;
mod settings;
pub mod timer_spec;
pub mod transport;

pub use broker::{ConnectionPermit, PluginBroker, PluginState, Plugins, PluginsState, WorkerState};
pub use caller::{ApiCaller, ApiReply, PluginCall};
pub use connection::PluginConnection;
pub use figures::{RequestOutcome, RequestStatsState};
pub use gate::{
    CallContext, DeliveryNote, Lineage, NoPlugins, PluginCallError, PluginGate, PluginRequest,
    Presence, Urgency, Via, WorkerId, never_urgent,
};
pub use points::{
    CatchUp, ExtensionPoints, Handler, Hider, Hook, Lambda, Overlap, Provider, Readiness, Timer,
    Trigger,
};
pub use recent::{CallError, RecentCall, RecentCalls};
pub use registration_log::record_registrations;
pub use routes::{Route, Routes};
pub use settings::{FIRST_PAUSE, PluginEntry, PluginsSettings, TransportKind};
