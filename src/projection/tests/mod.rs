//! Tests of the store as a whole, against the fold of the same events in memory.

mod apply;
mod query;
mod world;
