//! The record store during the life of a data folder: how a start brings it up to the log, how it
//! is moved or replaced, and what remains afterwards.

pub(crate) mod erased;
pub(crate) mod leaving;
pub mod leftovers;
pub(crate) mod moved;
mod numbers;
pub(crate) mod offline;
pub(crate) mod origin;
pub(crate) mod start;
