//! What the command line does besides serving.

pub mod log;
pub mod rebuild;
