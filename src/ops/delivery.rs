//! `skytrail delivery`: how far plugins are with their after-hooks and other programs with the log,
//! and how to correct it.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value as Json, json};

use super::delivery_follow;
use super::remote::{self, RunningServer, ServerFlag};
use super::{say, show};
use crate::config::Config;

/// What to do. Every command talks to the running server.
#[derive(Clone, Debug, Args)]
pub struct DeliveryCommand {
    #[command(flatten)]
    server: ServerFlag,
    #[command(subcommand)]
    what: DeliveryAction,
}

/// See [`DeliveryCommand`].
#[derive(Clone, Debug, Subcommand)]
pub enum DeliveryAction {
    /// Lists the plugins and other programs that receive changes: how far they are, and what went
    /// wrong.
    List,
    /// Stops delivering to a consumer; what waits stays in the log.
    Pause {
        /// The plugin, or `log/NAME` for a consumer of the log.
        consumer: String,
    },
    /// Resumes delivering.
    Resume {
        /// The plugin, or `log/NAME` for a consumer of the log.
        consumer: String,
    },
    /// Continues from another position in the log: everything after it is delivered, even if it was
    /// before.
    Rewind {
        /// The plugin, or `log/NAME` for a consumer of the log.
        consumer: String,
        /// The place to continue from.
        #[command(flatten)]
        to: RewindTarget,
        /// Whether to wait until the deliveries are done.
        #[command(flatten)]
        watch: Watch,
    },
    /// Repeats the deliveries for a range of positions, in addition to normal delivery.
    Redeliver {
        /// The plugin, or `log/NAME` for a consumer of the log.
        consumer: String,
        /// The first position.
        from: u64,
        /// The last position.
        until: u64,
        /// Whether to wait until the deliveries are done.
        #[command(flatten)]
        watch: Watch,
    },
    /// Lists deliveries that were given up.
    DeadLetters {
        /// The plugin, or `log/NAME` for a consumer of the log.
        consumer: String,
    },
    /// Delivers dead letters again.
    Resend(Letters),
    /// Deletes dead letters. A delivery that is being retried can be named, too: it is given up and
    /// becomes a dead letter.
    Drop(Letters),
    /// Deletes a consumer whose plugin no longer connects, with its dead letters.
    Forget {
        /// The plugin, or `log/NAME` for a consumer of the log.
        consumer: String,
    },
}

/// A place in the log.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RewindTarget {
    /// After this position.
    #[arg(long)]
    position: Option<u64>,
    /// Before the first event of this time or later (RFC 3339).
    #[arg(long)]
    time: Option<String>,
    /// At the log's end: nothing of the past is delivered.
    #[arg(long)]
    end: bool,
}

/// Whether to wait until the deliveries are done.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Watch {
    /// Waits until everything is delivered, and shows the progress. Waits for a worker, too, if
    /// none is connected. Fails if the consumer is paused. Stopping this command stops no delivery.
    #[arg(long)]
    follow: bool,
}

/// Selects dead letters.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").args(["ids", "all"]).required(true))]
#[command(override_usage = "skytrail delivery <resend|drop> <CONSUMER> <IDS|--all>")]
pub struct Letters {
    /// The plugin, or `log/NAME` for a consumer of the log.
    consumer: String,
    /// The ids of the dead letters, such as `42/note_saved`.
    ids: Vec<String>,
    /// Selects all of them.
    #[arg(long)]
    all: bool,
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: DeliveryCommand) -> Result<(), String> {
    let server = RunningServer::find(config, &command.server)?;
    let watched = matches!(
        command.what,
        DeliveryAction::Rewind {
            watch: Watch { follow: true },
            ..
        } | DeliveryAction::Redeliver {
            watch: Watch { follow: true },
            ..
        }
    );
    let (action, body) = request(command.what);
    let mut result = remote::block_on(all_of(&server, action, body))?;
    if watched && let Some(begun) = result.first() {
        let ended = remote::block_on(delivery_follow::until_done(&server, begun))?;
        result = vec![ended];
    }
    match action {
        "delivery:forget" => say("forgotten"),
        "delivery:dead_letters" if result.is_empty() => show("no dead letters"),
        "delivery:list" if result.is_empty() => {
            show("no plugin has after-hooks, and the log has no consumers")
        }
        "delivery:dead_letters" => result
            .iter()
            .for_each(|letter| show(&describe_letter(letter))),
        "delivery:list" => {
            for state in &result {
                show(&describe(state));
                let retries = state.get("retries").and_then(Json::as_array);
                let retries = retries.into_iter().flatten();
                retries.for_each(|retry| show(&describe_retry(retry)));
            }
        }
        _ => result.iter().for_each(|state| say(&describe(state))),
    }
    Ok(())
}

/// Calls the action; reads a list page by page.
async fn all_of(server: &RunningServer, action: &str, mut body: Json) -> Result<Vec<Json>, String> {
    let mut all = Vec::new();
    loop {
        let page = match server.call(action, &body).await? {
            Json::Array(page) => page,
            one => return Ok(vec![one]),
        };
        let last = page.last().and_then(|letter| letter.get("id")).cloned();
        all.extend(page);
        match last.filter(|_| action == "delivery:dead_letters") {
            Some(last) => remote::set(&mut body, "after", last),
            None => return Ok(all),
        }
    }
}

fn request(what: DeliveryAction) -> (&'static str, Json) {
    match what {
        DeliveryAction::List => ("delivery:list", json!({})),
        DeliveryAction::Pause { consumer } => ("delivery:pause", json!({"consumer": consumer})),
        DeliveryAction::Resume { consumer } => ("delivery:resume", json!({"consumer": consumer})),
        DeliveryAction::Rewind { consumer, to, .. } => {
            let RewindTarget {
                position,
                time,
                end,
            } = to;
            let body =
                json!({"consumer": consumer, "position": position, "time": time, "end": end});
            ("delivery:rewind", body)
        }
        DeliveryAction::Redeliver {
            consumer,
            from,
            until,
            ..
        } => {
            let body = json!({"consumer": consumer, "from": from, "until": until});
            ("delivery:redeliver", body)
        }
        DeliveryAction::DeadLetters { consumer } => {
            ("delivery:dead_letters", json!({"consumer": consumer}))
        }
        DeliveryAction::Resend(letters) => ("delivery:resend", letters.body()),
        DeliveryAction::Drop(letters) => ("delivery:drop", letters.body()),
        DeliveryAction::Forget { consumer } => ("delivery:forget", json!({"consumer": consumer})),
    }
}

impl Letters {
    fn body(self) -> Json {
        json!({"consumer": self.consumer, "ids": self.ids, "all": self.all})
    }
}

fn describe(state: &Json) -> String {
    let text = |name: &str| state.get(name).and_then(Json::as_str).unwrap_or_default();
    let number = |name: &str| state.get(name).and_then(Json::as_u64).unwrap_or_default();
    let reason = match text("reason") {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    format!(
        "{:<16} {}{reason}, at {}, {} events behind; {} in flight, {} retrying, {} dead, {} \
         skipped, {} delivered",
        text("name"),
        text("state"),
        number("position"),
        number("lag"),
        number("in_flight"),
        number("retrying"),
        number("dead_letters"),
        number("skipped"),
        number("delivered"),
    )
}

fn describe_retry(retry: &Json) -> String {
    let text = |name: &str| retry.get(name).and_then(Json::as_str).unwrap_or_default();
    let error = retry.get("error").and_then(|error| error.get("message"));
    format!(
        "  retrying {:<32} {:<32} after {} attempts: {}",
        text("id"),
        text("record"),
        retry.get("attempts").unwrap_or(&Json::Null),
        error.and_then(Json::as_str).unwrap_or_default(),
    )
}

fn describe_letter(letter: &Json) -> String {
    let text = |name: &str| letter.get(name).and_then(Json::as_str).unwrap_or_default();
    if let Some(why) = letter.get("unreadable").and_then(Json::as_str) {
        return format!("{:<32} cannot be read: {why}", text("id"));
    }
    let error = letter.get("error").and_then(|error| error.get("message"));
    format!(
        "{:<32} {:<32} {} after {} attempts: {}",
        text("id"),
        text("record"),
        text("at"),
        letter.get("attempts").unwrap_or(&Json::Null),
        error.and_then(Json::as_str).unwrap_or_default(),
    )
}
