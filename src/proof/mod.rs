//! Proof that the past was not rewritten: signed checkpoints of the log's chain.
//!
//! A person who changes an event has to change every chain hash after it, and can do so: a chain
//! alone proves nothing to anyone without a copy of its end. A *checkpoint* is such a copy, signed:
//! at this time, the log of this store had this chain hash at this position. Checkpoints are
//! written next to the log, into the program's own log, and into every backup. Those that are kept
//! elsewhere cannot be taken back even by the owner of this machine.

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
