//! Proof that the past was not rewritten: signed checkpoints of the log's chain.
//!
//! Whoever changes an event has to change every chain hash after it, and can: a chain alone proves
//! nothing to somebody who has no copy of its end. A *checkpoint* is such a copy, signed: at this
//! time, the log of this store had this chain hash at this position. They are written beside the log,
//! into the program's own log, and into every backup; those that are kept elsewhere are what even the
//! owner of this machine cannot take back.

mod checkpoint;
mod keeper;
mod key;
mod notes;
mod opening;

pub use checkpoint::Checkpoint;
pub use keeper::{CheckpointState, Checkpoints};
pub use key::{KEY_FILE, LogKey, parse_public};
pub use notes::{NOTES_FILE, Notes};
pub use opening::{NotOpened, open_signed};
