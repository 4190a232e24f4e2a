//! A server as a child process: its start, its use of the machine, its end.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Long enough for any start, short enough to notice a server that hangs.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// A running server that has printed its address. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
    /// From exec to the line with the address.
    pub(crate) start_time: Duration,
}

impl Server {
    /// Starts a command and waits until it prints `ready on http://ADDR`. Its errors go to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let begun = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log).expect("a log file"))
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {}: {error}", command.get_program().display())
            });
        let stdout = child.stdout.take().expect("stdout is piped");
        let (ready_tx, ready_rx) = mpsc::channel();
        std::thread::spawn(move || {
            // Reads to the end, so that the server never blocks on its output.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, addr)) = line.split_once("ready on http://") {
                    ready_tx.send((Instant::now(), addr.trim().parse())).ok();
                }
            }
        });
        match ready_rx.recv_timeout(START_DEADLINE) {
            Ok((at, addr)) => Self {
                child,
                addr: addr.expect("an address after `ready on http://`"),
                start_time: at.duration_since(begun),
            },
            Err(_) => {
                child.kill().ok();
                child.wait().ok();
                panic!(
                    "not ready: {}",
                    std::fs::read_to_string(log).unwrap_or_default()
                );
            }
        }
    }

    /// Returns the processor time used so far, user and system.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("stat");
        let (_, fields) = stat.rsplit_once(')').expect("the name in brackets");
        let ticks: f64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<f64>().ok())
            .sum();
        // Linux reports hundredths of a second to user space, whatever its own clock.
        ticks / 100.0
    }

    /// Returns the present and the peak memory, in MiB.
    pub(crate) fn memory_mib(&self) -> (f64, f64) {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let mib = |name: &str| -> f64 {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or("0");
            let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
            kib.trim().parse::<f64>().unwrap_or(0.0) / 1024.0
        };
        (mib("VmRSS"), mib("VmHWM"))
    }

    /// Asks it to stop and waits until it has; fails if it did not end well.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        let signal = format!("kill -TERM {}", self.child.id());
        Command::new("sh")
            .args(["-c", &signal])
            .status()
            .expect("a shell");
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            match self.child.try_wait().expect("the child is ours") {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the server ended with {status}")),
                None if Instant::now() > deadline => return Err("the server did not stop".into()),
                None => std::thread::park_timeout(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Returns a directory's disk usage in MiB, without holes. The server's reserve for a full disk is
/// not counted, because its size does not depend on the data.
pub(crate) fn disk_mib(dir: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt;
    let mut blocks = 0;
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name() != "reserve" {
                blocks += meta.blocks();
            }
        }
    }
    blocks as f64 * 512.0 / (1024.0 * 1024.0)
}
