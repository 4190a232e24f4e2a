//! Decides which plugin has which point, and which worker gets a request.
//!
//! Files: `gate` (the port's implementation, on the callers' threads), `deliver` (limits of
//! deliveries), `actor` (incoming messages), `requests` (a request's way to a worker), `membership`
//! (workers that join and take over), `registering` (registrations, accepted or refused), `publish`
//! (what others see of the registrations), `anew` (plugins that are initialised anew), `lifecycle`
//! (the events of a worker's and the server's start), `plugin` (one plugin's workers, pure), `queue`
//! (their waiting requests, pure), `state` (what is visible from outside).

mod actor;
mod anew;
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
