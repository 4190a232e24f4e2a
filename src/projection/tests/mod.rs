//! Tests of the store as a whole, against the fold of the same events in memory.

mod agreement;
mod apply;
mod history;
mod indexes;
mod pages;
mod past;
mod people;
mod query;
mod world;
