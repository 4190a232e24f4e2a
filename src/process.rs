//! Processes that the server starts, each together with every process that it starts itself.

use std::io::{Error, Result};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};

/// The script of a guard. It waits until its input ends, which happens when the process at the
/// other end is gone, for whatever reason. Then it gives its whole group five seconds to end.
const GUARD: &str = "trap '' HUP INT TERM; while read -r line; do :; done; \
    kill -TERM 0; sleep 5; kill -KILL 0";

/// A process with all the processes that it started. They end when this is dropped, unless the
/// process was waited for, and when the current process ends, however that happens.
#[derive(Debug)]
pub struct ProcessGroup {
    process: Child,
    /// The leader of the group, until the process has been waited for. As long as the leader is not
    /// reaped, no other group can get its number.
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
        // A reader of the process's output must not have to wait for the guard.
        guard.stdout(Stdio::null()).stderr(Stdio::null());
        let guard = guard.process_group(0).kill_on_drop(true).spawn();
        let guard = guard.map_err(|error| Error::new(error.kind(), format!("sh: {error}")))?;
        // The command is in the guard's group from the start, so it is never without a guard.
        let group = number(&guard).unwrap_or_default();
        let process = command.process_group(group).kill_on_drop(true).spawn()?;
        Ok(Self {
            process,
            guard: Some(guard),
        })
    }

    /// Returns the ends of the process's pipes; each is handed out only once.
    pub fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        let process = &mut self.process;
        (
            process.stdin.take(),
            process.stdout.take(),
            process.stderr.take(),
        )
    }

    /// Asks the whole group to end.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the process. From then on, the processes that it started are left alone.
    ///
    /// # Errors
    /// None is expected: the process exists until it has been waited for.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.process.wait().await?;
        if let Some(mut guard) = self.guard.take() {
            // The guard is killed first: if its input ended, it would end the others.
            guard.kill().await?;
        }
        Ok(status)
    }

    /// Waits for the process, and ends every process of its group that is left.
    ///
    /// # Errors
    /// Those of [`Self::wait`].
    pub async fn wait_and_end(&mut self) -> Result<ExitStatus> {
        self.ended().await?;
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// Waits for the end of the process without reaping it.
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
            // The group may already be empty.
            let _ = kill_process_group(group, signal);
        }
    }
}

/// Returns a process's number while it has not been reaped.
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

    /// Starts a process that ends at once and leaves a job behind, which echoes its input.
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

    /// Sends a line to the job and returns its answer.
    async fn echo((mut stdin, mut stdout): (ChildStdin, ChildStdout)) -> String {
        // A job that has ended does not read.
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
