//! The record store in the life of a data folder: brought up to the log at a start, moved or left for
//! another, and what is left behind.

pub(crate) mod leaving;
pub mod leftovers;
pub(crate) mod moved;
pub(crate) mod offline;
pub(crate) mod start;
pub(crate) mod stranger;
