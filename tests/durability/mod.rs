//! Durability and the detection of damage, from outside the process: traced system calls, file
//! systems that lose power or run full, slow disks, files that change under the server.

mod damage;
mod disk_full;
mod power;
mod slow_disk;
mod system_calls;
mod trace;
