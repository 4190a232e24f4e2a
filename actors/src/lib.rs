//! Who *does* things in Skytrail: the event log, the record actors, plugins, pub/sub, push and the
//! projector, with the ports (traits) that they need.
//!
//! Nothing here knows HTTP or SQL: the server implements the ports.

pub mod accounts;
pub mod asset;
mod budget;
pub mod capture;
pub mod clock;
pub mod context;
pub mod delivery;
pub mod device;
pub mod erasure;
pub mod evaluation;
pub mod events;
pub mod hub;
pub mod import;
pub mod install;
pub mod live;
pub mod log;
pub mod observe;
pub mod ops_store;
pub mod pauses;
pub mod plugin;
pub mod projector;
pub mod push;
pub mod record;
pub mod sandbox;
pub mod spawn;
pub mod store;
mod streams;
pub mod subscription;
pub mod task;
#[cfg(feature = "testkit")]
pub mod testkit;
mod yield_budget;
