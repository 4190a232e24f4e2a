//! Processes that the server starts: each with all that it starts itself.

use std::io::{Error, Result};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};

/// What a guard does: it waits until its input ends, which it does with whoever has the other end, however
/// that comes about; then it has five seconds for all of its group to end.
const GUARD: &str = "trap '' HUP INT TERM; while read -r line; do :; done; \
    kill -TERM 0; sleep 5; kill -KILL 0";

/// A process with all that it started; ends with this, unless it was waited for, and with this process,
/// however that ends.
#[derive(Debug)]
pub struct ProcessGroup {
    process: Child,
    /// The leader of the group, until the process was waited for. As long as it is not reaped the group's
    /// number is nobody else's.
    guard: Option<Child>,
}

impl ProcessGroup {
    /// Starts a process in a group of its own.
    ///
    /// # Errors
    /// It cannot be started, or there is no shell.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD]).stdin(Stdio::piped());
        // Who reads what this process writes should not wait for the guard.
        guard.stdout(Stdio::null()).stderr(Stdio::null());
        let guard = guard.process_group(0).kill_on_drop(true).spawn();
        let guard = guard.map_err(|error| Error::new(error.kind(), format!("sh: {error}")))?;
        // Its group has the command from the beginning: there is no moment without a guard.
        let group = number(&guard).unwrap_or_default();
        let process = command.process_group(group).kill_on_drop(true).spawn()?;
        Ok(Self {
            process,
            guard: Some(guard),
        })
    }

    /// Returns the ends of its pipes; each is given out once.
    pub fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        let process = &mut self.process;
        (
            process.stdin.take(),
            process.stdout.take(),
            process.stderr.take(),
        )
    }

    /// Asks all of it to end.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the process. What it has started is left alone from then on.
    ///
    /// # Errors
    /// None is expected: it is there until it was waited for.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.process.wait().await?;
        if let Some(mut guard) = self.guard.take() {
            // Ended, for if its input ended it would end the others.
            guard.kill().await?;
        }
        Ok(status)
    }

    /// Waits for the process, and ends what is left of all that it has started.
    ///
    /// # Errors
    /// As those of [`Self::wait`].
    pub async fn wait_and_end(&mut self) -> Result<ExitStatus> {
        self.ended().await?;
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// Waits for the end of the process, and does not reap it.
    async fn ended(&self) -> Result<()> {
        let mut endings = signal(SignalKind::child())?;
        while let Some(pid) = number(&self.process).and_then(Pid::from_raw) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if waitid(WaitId::Pid(pid), options)
                .map_err(Error::from)?
                .is_some()
            {
                break;
            }
            endings.recv().await;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        let leader = self.guard.as_ref().and_then(number);
        if let Some(group) = leader.and_then(Pid::from_raw) {
            // None may be left of it.
            let _ = kill_process_group(group, signal);
        }
    }
}

/// Returns a process's number, as long as it was not reaped.
fn number(process: &Child) -> Option<i32> {
    process.id().and_then(|pid| i32::try_from(pid).ok())
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Starts a process that ends at once, and leaves a job which says what it is told.
    fn start() -> (ProcessGroup, ChildStdin, ChildStdout) {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec 3<&0; cat <&3 & exit 7"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut group = ProcessGroup::start(&mut command).unwrap();
        let (stdin, stdout, _) = group.pipes();
        (group, stdin.unwrap(), stdout.unwrap())
    }

    /// Tells the job something, and returns what it says.
    async fn echo((mut stdin, mut stdout): (ChildStdin, ChildStdout)) -> String {
        // Who is gone does not listen.
        let _ = stdin.write_all(b"still there").await;
        drop(stdin);
        let mut said = String::new();
        stdout.read_to_string(&mut said).await.unwrap();
        said
    }

    #[tokio::test]
    async fn what_is_left_of_a_process_that_was_waited_for_is_left_alone() {
        let (mut group, stdin, stdout) = start();
        assert_eq!(group.wait().await.unwrap().code(), Some(7));
        drop(group);
        assert_eq!(echo((stdin, stdout)).await, "still there");
    }

    #[tokio::test]
    async fn what_is_left_of_a_process_ends_with_it_if_that_is_wanted() {
        let (mut group, stdin, stdout) = start();
        assert_eq!(group.wait_and_end().await.unwrap().code(), Some(7));
        assert_eq!(echo((stdin, stdout)).await, "");
    }

    #[tokio::test]
    async fn a_group_ends_when_nobody_waits_for_its_process() {
        let (group, stdin, stdout) = start();
        group.ended().await.unwrap();
        drop(group);
        assert_eq!(echo((stdin, stdout)).await, "");
    }
}
