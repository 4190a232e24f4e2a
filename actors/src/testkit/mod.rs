//! Stand-ins for tests: disks that fail as real ones do.

pub mod disk;
