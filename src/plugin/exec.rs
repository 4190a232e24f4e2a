//! The transport `exec`: a process for each request.

use std::ffi::OsString;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};
use skytrail_actors::plugin::TransportKind;
use skytrail_actors::plugin::protocol::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::transport::{Answer, Envelope, Transport, failure, unreached};
use crate::process::ProcessGroup;

/// How much of a process's standard error is logged.
const MAX_STDERR_BYTES: usize = 64 * 1024;
/// How much is read at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// For how long the pipes of a process that has ended are still read.
const GRACE: Duration = Duration::from_millis(500);

/// A plugin that is run for each request.
pub(super) struct Exec {
    plugin: String,
    program: String,
    args: Vec<String>,
    window: u64,
    /// The configuration, encoded for the process.
    config: String,
    database: String,
    max_answer: usize,
}

/// The result of a process.
struct Ended {
    /// `None` if it wrote too much and was ended for that.
    status: Option<ExitStatus>,
    said: ProcessOutput,
}

/// What a process wrote.
#[derive(Default)]
struct ProcessOutput {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Why a process's output is no longer read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("too much")]
    TooLarge,
}

impl Exec {
    /// Creates the transport.
    pub(super) fn new(
        plugin: &str,
        (program, args, window): (&str, &[String], u64),
        config: &Json,
        max_answer: usize,
    ) -> Self {
        let database = config.pointer("/database/option").and_then(Json::as_str);
        Self {
            plugin: plugin.to_owned(),
            program: program.to_owned(),
            args: args.to_vec(),
            window,
            config: STANDARD.encode(config.to_string()),
            database: database.unwrap_or_default().to_owned(),
            max_answer,
        }
    }

    fn command(&self, envelope: &Envelope) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .args(["--subprocess", &envelope.kind, &envelope.name])
            .args(action_of(envelope))
            .env_clear()
            .env("DATABASE_URL", &self.database)
            .env("SKYGEAR_CONFIG", &self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if matches!(envelope.kind.as_str(), "op" | "handler" | "hook") {
            let context = envelope.context.as_ref().map_or("{}", |it| it.get());
            command.env("SKYGEAR_CONTEXT", STANDARD.encode(context));
        }
        command
    }

    /// Runs the program until it ends, which is when its answer counts.
    async fn run(&self, envelope: &Envelope) -> std::io::Result<Ended> {
        let mut group = ProcessGroup::start(&mut self.command(envelope))?;
        let (stdin, stdout, stderr) = group.pipes();
        let mut said = ProcessOutput::default();
        let write = async {
            if let Some(mut stdin) = stdin {
                // A process that does not read its input can still answer.
                let _ = stdin.write_all(&input(envelope)).await;
            }
            Ok(())
        };
        let answer = |bytes: &[u8]| {
            if bytes.len() > self.max_answer.saturating_sub(said.stdout.len()) {
                return Err(Unread::TooLarge);
            }
            said.stdout.extend_from_slice(bytes);
            Ok(())
        };
        let remark = |bytes: &[u8]| {
            let room = MAX_STDERR_BYTES.saturating_sub(said.stderr.len());
            said.stderr.extend(bytes.iter().take(room));
            Ok(())
        };
        // All at once, because a process that waits for its reader would wait for ever.
        let talk = async { tokio::try_join!(write, read(stdout, answer), read(stderr, remark),) };
        let talk_and_wait = async {
            let mut talk = pin!(talk);
            tokio::select! {
                talked = &mut talk => {
                    talked?;
                    Ok(group.wait().await?)
                }
                status = group.wait() => {
                    // Its output is in the pipes by now. They may stay open, held by processes that
                    // it has left behind.
                    if let Ok(talked) = timeout(GRACE, talk).await {
                        talked?;
                    }
                    Ok(status?)
                }
            }
        };
        let status = match talk_and_wait.await {
            Ok(status) => Some(status),
            Err(Unread::TooLarge) => None,
            Err(Unread::Io(error)) => return Err(error),
        };
        Ok(Ended { status, said })
    }

    fn outcome(&self, envelope: &Envelope, Ended { status, said }: &Ended) -> Outcome {
        for line in String::from_utf8_lossy(&said.stderr).lines() {
            tracing::info!(
                plugin = self.plugin,
                name = envelope.name,
                line,
                "the plugin says"
            );
        }
        let Some(status) = status else {
            return unread(&format!("more than {} bytes", self.max_answer));
        };
        if !status.success() {
            return failure(&status.to_string().replace(": ", " "));
        }
        let is_text = |byte: &&u8| !matches!(byte, b'\n' | b'\r');
        let answer: Vec<u8> = said.stdout.iter().filter(is_text).copied().collect();
        let read = envelope.read_or_log(&self.plugin, &answer);
        read.unwrap_or_else(|why| unread(&why))
    }
}

#[async_trait]
impl Transport for Exec {
    fn kind(&self) -> TransportKind {
        TransportKind::Exec
    }

    fn window(&self) -> u64 {
        self.window
    }

    async fn request(&self, envelope: &Envelope) -> Answer {
        match self.run(envelope).await {
            Ok(ended) => Answer::Given(self.outcome(envelope, &ended)),
            Err(error) => {
                // Clients must not learn where programs are.
                let (plugin, program) = (&self.plugin, &self.program);
                tracing::warn!(plugin, program, %error, "the program cannot be run");
                let message = format!("the program cannot be run: {error}");
                Answer::Given(unreached(&message))
            }
        }
    }
}

/// Returns the action of a provider's request, which is an argument of the program.
fn action_of(envelope: &Envelope) -> Option<OsString> {
    let action = param(envelope)?.get("action")?.as_str()?.to_owned();
    Some(action.into())
}

/// Returns the error of an unreadable answer, in v1's words for this transport.
fn unread(why: &str) -> Outcome {
    failure(&format!("failed to parse plugin response: {why}"))
}

/// Returns a process's standard input.
fn input(envelope: &Envelope) -> Vec<u8> {
    let content = match param(envelope) {
        Some(provided) => {
            let auth_data = provided.get("auth_data").cloned().unwrap_or_default();
            Some(json!({"auth_data": auth_data}).to_string())
        }
        None => envelope.param.as_ref().map(|param| param.get().to_owned()),
    };
    content.unwrap_or_default().into_bytes()
}

/// Returns the content of a provider's request.
fn param(envelope: &Envelope) -> Option<Json> {
    let param = envelope
        .param
        .as_ref()
        .filter(|_| envelope.kind == "provider")?;
    skytrail_schema::json::from_str(param.get()).ok()
}

/// Reads a pipe to its end, or until `take` stops it.
async fn read(
    pipe: Option<impl AsyncRead + Unpin>,
    mut take: impl FnMut(&[u8]) -> Result<(), Unread>,
) -> Result<(), Unread> {
    let Some(mut pipe) = pipe else {
        return Ok(());
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let len = pipe.read(&mut chunk).await?;
        if len == 0 {
            return Ok(());
        }
        take(chunk.get(..len).unwrap_or_default())?;
    }
}
