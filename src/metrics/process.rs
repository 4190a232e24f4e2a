//! The operating system's figures for this process. Only Linux provides them.

use std::fs;

/// Clock ticks per second in `/proc`, the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// The figures of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Memory in use.
    pub resident_bytes: u64,
    /// Processor time.
    pub cpu_seconds: f64,
    /// The number of threads.
    pub num_threads: u64,
    /// The number of open files and sockets.
    pub num_open_files: u64,
}

impl Process {
    /// Reads the figures; `None` if the system does not provide them.
    pub fn read() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let files = fs::read_dir("/proc/self/fd").ok()?;
        Some(Self {
            resident_bytes: field(&status, "VmRSS:")?.saturating_mul(1024),
            cpu_seconds: cpu_seconds(&stat)?,
            num_threads: field(&status, "Threads:")?,
            num_open_files: files.count() as u64,
        })
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Reads user and system time. They come after the program's name, which may contain anything but
/// ends with the last parenthesis.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut times = behind.split_whitespace().skip(11);
    let mut next = || times.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_behind_the_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a"), None);
        assert_eq!(field("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
    }
}
