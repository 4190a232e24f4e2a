//! What things *are* in Skytrail: identifiers, values, records, access lists, predicates, events
//! and their bytes.
//!
//! Everything here is pure data: no I/O, no clock, no async. Code that decides or changes something
//! lives in `skytrail-actors`. Code that speaks HTTP or SQL lives in the server.

pub mod acl;
pub mod asset;
pub mod auth_keys;
pub mod caller;
pub mod chain;
pub mod code;
pub mod codec;
pub mod event;
pub mod field_access;
pub mod id;
pub mod json;
pub mod packed;
pub mod positions;
pub mod predicate;
pub mod query;
pub mod record;
pub mod subscription;
pub mod time;
pub mod types;
pub mod upcast;
pub mod value;
pub mod width;
