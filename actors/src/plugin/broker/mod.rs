//! Which plugin has which point, and which worker gets a request.
//!
//! Files: `gate` (the port's implementation, on the callers' threads), `deliver` (deliveries'
//! limits), `actor` (what comes in), `requests` (a request's way to a worker), `membership` (workers
//! that come and take over), `registering` (registrations, taken or refused), `publish` (what the
//! others see of that), `lifecycle` (the events of a worker's and the server's start), `plugin` (one
//! plugin's workers, pure), `queue` (what waits for them, pure), `state` (what can be seen from outside).

mod actor;
mod deliver;
mod gate;
mod lifecycle;
mod membership;
mod plugin;
mod publish;
mod queue;
mod registering;
mod requests;
mod state;

pub use actor::Plugins;
pub use gate::{ConnectionPermit, PluginBroker};
pub use state::{PluginState, PluginsState, WorkerState};
