//! What the command line does besides serving.

pub mod delivery;
pub mod dev;
pub mod index;
pub mod log;
pub mod plugin;
pub mod rebuild;
pub mod remote;
pub mod task;
