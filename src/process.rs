//! Processes that the server starts: each with all that it starts itself.

use std::io;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// What a guard does: it waits until its input ends, which it does with whoever has the other end, however
/// that comes about; then it has five seconds for all of its group to end.
const GUARD: &str = "trap '' HUP INT TERM; while read -r line; do :; done; \
    kill -TERM 0; sleep 5; kill -KILL 0";

/// A process with all that it started; ends with this.
#[derive(Debug)]
pub struct ProcessGroup {
    id: Option<Pid>,
    /// Ends the group when this process is gone without having done so.
    _guard: Option<Child>,
}

impl ProcessGroup {
    /// Starts a process in a group of its own.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> io::Result<(Child, Self)> {
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let id = number(&child).and_then(Pid::from_raw);
        let group = Self { id, _guard: None };
        Ok((child, group))
    }

    /// As [`ProcessGroup::start`]; the group ends also when this process is killed, or exits without a word.
    ///
    /// # Errors
    /// As [`ProcessGroup::start`]; there is no shell.
    pub fn start_guarded(command: &mut Command) -> io::Result<(Child, Self)> {
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD]).stdin(Stdio::piped());
        // Who reads what this process writes should not wait for the guard.
        guard.stdout(Stdio::null()).stderr(Stdio::null());
        let guard = guard.process_group(0).kill_on_drop(true).spawn();
        let guard = guard.map_err(|error| io::Error::new(error.kind(), format!("sh: {error}")))?;
        // Its group has the command from the beginning: there is no moment without a guard.
        let group = number(&guard);
        let command = command.process_group(group.unwrap_or_default());
        let child = command.kill_on_drop(true).spawn()?;
        let id = group.or_else(|| number(&child)).and_then(Pid::from_raw);
        let group = Self {
            id,
            _guard: Some(guard),
        };
        Ok((child, group))
    }

    /// Asks all of it to end.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            // None may be left of it.
            let _ = kill_process_group(id, signal);
        }
    }
}

fn number(child: &Child) -> Option<i32> {
    child.id().and_then(|pid| i32::try_from(pid).ok())
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
