//! The event log against faults: torn tails, flipped bits, full and failing disks, power cuts,
//! a damaged sled, and concurrent histories.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test that meets what it does not expect should stop there and say so"
)]

mod beside;
mod damage;
mod erasures;
mod faults;
mod histories;
mod index;
mod keys;
mod search;
mod sequences;
mod sled;
mod world;
