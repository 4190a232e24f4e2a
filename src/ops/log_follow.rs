//! `skytrail log follow`: follows the log of a running server.

use std::time::Duration;

use clap::Args;

use super::remote::{self, CallError, RunningServer, ServerFlag};
use crate::config::Config;

/// How long to wait before the next attempt to reach a lost server.
const PAUSE: Duration = Duration::from_secs(2);

/// What to follow.
#[derive(Clone, Debug, Args)]
pub struct FollowCommand {
    #[command(flatten)]
    server: ServerFlag,
    /// Shows only this stream, such as `record/note/1`, `type/note` or `user/<id>`.
    #[arg(long)]
    stream: Option<String>,
    /// Shows only these record types, separated by commas.
    #[arg(long)]
    record_types: Option<String>,
    /// Shows only these kinds, separated by commas, such as `record.created` or `record`.
    #[arg(long)]
    kinds: Option<String>,
    /// Shows only what this user did, by id, user name or email address.
    #[arg(long)]
    user: Option<String>,
    /// Starts at this position; defaults to the end of the log.
    #[arg(long, conflicts_with = "time")]
    from: Option<u64>,
    /// Starts at this time (RFC 3339).
    #[arg(long)]
    time: Option<String>,
}

/// Runs the command; it continues when a lost server is back.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: &FollowCommand) -> Result<(), String> {
    let server = RunningServer::find(config, &command.server)?;
    remote::block_on(follow(&server, command.query()))
}

impl FollowCommand {
    fn query(&self) -> Vec<(&'static str, String)> {
        let members = [
            ("stream", self.stream.clone()),
            ("record_types", self.record_types.clone()),
            ("kinds", self.kinds.clone()),
            ("user", self.user.clone()),
            ("from", self.from.map(|from| from.to_string())),
            ("time", self.time.clone()),
        ];
        let given = members.into_iter();
        given
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

async fn follow(server: &RunningServer, query: Vec<(&'static str, String)>) -> Result<(), String> {
    let mut last_id = None;
    loop {
        let answer = server.follow(&query, last_id.as_deref()).await;
        let mut answer = match answer {
            Ok(answer) => answer,
            // A server that has answered before is waited for.
            Err(CallError::Unavailable(_)) if last_id.is_some() => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut lines = Vec::new();
        while let Ok(Some(bytes)) = answer.chunk().await {
            lines.extend_from_slice(&bytes);
            while let Some(end) = lines.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = lines.drain(..end + 2).collect();
                if let Some(id) = print(&String::from_utf8_lossy(&event)) {
                    last_id = Some(id);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Prints the event if it is one of the log; returns the id of any event.
fn print(event: &str) -> Option<String> {
    let member = |name: &str| {
        let mut lines = event.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    if member("event") == Some("event")
        && let Some(data) = member("data")
    {
        super::show_json(data);
    }
    member("id").map(str::to_owned)
}
