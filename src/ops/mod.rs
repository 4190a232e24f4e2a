//! What the command line does besides serving.

pub mod index;
pub mod log;
pub mod rebuild;
pub mod remote;
pub mod task;
