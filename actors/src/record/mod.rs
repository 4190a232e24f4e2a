//! Record types: one actor for each, which sequences a write from command to commit.

pub mod actor;
pub mod apply;
pub(crate) mod as_of;
pub mod attempt;
pub(crate) mod before;
pub mod decide;
pub mod delete;
pub mod draft;
pub mod env;
mod export;
pub mod fence;
mod handover;
mod head_cache;
pub mod history;
pub mod hooks;
pub(crate) mod included;
pub mod known_keys;
pub mod messages;
pub mod migrate;
mod numbered;
pub mod page_bytes;
pub mod past;
mod past_rules;
pub mod read;
pub mod readers;
pub mod records;
pub mod save;
pub mod turns;
pub mod types;
pub(crate) mod unique;
pub mod unique_value;
pub(crate) mod weighed;
pub mod write_model;

#[cfg(test)]
mod tests;
