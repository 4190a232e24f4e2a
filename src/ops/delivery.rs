//! `skytrail delivery`: how far plugins are with what after-hooks are told, and other programs with
//! the log, and setting it right.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::delivery_follow;
use super::remote::{self, RunningServer, ServerFlag};
use super::{say, show};
use crate::config::Config;

/// What to do. All of it talks to the running server.
#[derive(Clone, Debug, Args)]
pub struct DeliveryCommand {
    #[command(flatten)]
    server: ServerFlag,
    #[command(subcommand)]
    what: What,
}

/// See [`DeliveryCommand`].
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Lists the plugins and other programs that are told of changes: how far they are, and what went wrong.
    List,
    /// Delivers nothing to a plugin any more; the log remembers what waits.
    Pause {
        /// The plugin, or `log/` and the name of a consumer of the log.
        consumer: String,
    },
    /// Goes on delivering.
    Resume {
        /// The plugin, or `log/` and the name of a consumer of the log.
        consumer: String,
    },
    /// Goes on from another place of the log: what is behind it is delivered again.
    Rewind {
        /// The plugin, or `log/` and the name of a consumer of the log.
        consumer: String,
        /// Where to.
        #[command(flatten)]
        to: To,
        /// Whether to wait.
        #[command(flatten)]
        watch: Watch,
    },
    /// Delivers again what these positions call for.
    Redeliver {
        /// The plugin, or `log/` and the name of a consumer of the log.
        consumer: String,
        /// The first position.
        from: u64,
        /// The last.
        until: u64,
        /// Whether to wait.
        #[command(flatten)]
        watch: Watch,
    },
    /// Lists deliveries that were given up.
    DeadLetters {
        /// The plugin, or `log/` and the name of a consumer of the log.
        consumer: String,
    },
    /// Delivers dead letters again.
    Resend(Letters),
    /// Forgets dead letters; a delivery that is being tried again is given up, and is one then.
    Drop(Letters),
    /// Forgets a plugin that does not come any more, with its dead letters.
    Forget {
        /// The plugin, or `log/` and the name of a consumer of the log.
        consumer: String,
    },
}

/// A place in the log.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct To {
    /// Behind this position.
    #[arg(long)]
    position: Option<u64>,
    /// Before the first event of this time (RFC 3339).
    #[arg(long)]
    time: Option<String>,
    /// At the log's end: nothing of the past is delivered.
    #[arg(long)]
    end: bool,
}

/// Whether to wait for what was ordered.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Watch {
    /// Waits until it is delivered, also for somebody to take it, and shows how far it is. Fails when the
    /// consumer is paused. Ending this ends no delivery.
    #[arg(long)]
    follow: bool,
}

/// Which dead letters.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").args(["ids", "all"]).required(true))]
#[command(override_usage = "skytrail delivery <resend|drop> <CONSUMER> <IDS|--all>")]
pub struct Letters {
    /// The plugin, or `log/` and the name of a consumer of the log.
    consumer: String,
    /// Their ids, such as `42/note_saved`.
    ids: Vec<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
}

/// Runs a command.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn run(config: &Config, command: DeliveryCommand) -> Result<(), String> {
    let server = RunningServer::find(config, &command.server)?;
    let watched = matches!(
        command.what,
        What::Rewind {
            watch: Watch { follow: true },
            ..
        } | What::Redeliver {
            watch: Watch { follow: true },
            ..
        }
    );
    let (action, body) = request(command.what);
    let Json::Object(body) = body else {
        return Err("not a request".to_owned());
    };
    let mut result = remote::block_on(all_of(&server, action, body))?;
    if watched && let Some(begun) = result.first() {
        let ended = remote::block_on(delivery_follow::until_done(&server, begun))?;
        result = vec![ended];
    }
    match action {
        "delivery:forget" => say("forgotten"),
        "delivery:dead_letters" if result.is_empty() => show("no dead letters"),
        "delivery:list" if result.is_empty() => {
            show("no plugin has after-hooks, and nobody is told of the log")
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

/// Asks; for a list page by page.
async fn all_of(
    server: &RunningServer,
    action: &str,
    mut body: Map<String, Json>,
) -> Result<Vec<Json>, String> {
    let mut all = Vec::new();
    loop {
        let page = match server.call(action, body.clone()).await? {
            Json::Array(page) => page,
            one => return Ok(vec![one]),
        };
        let last = page.last().and_then(|letter| letter.get("id")).cloned();
        all.extend(page);
        match last.filter(|_| action == "delivery:dead_letters") {
            Some(last) => body.insert("after".to_owned(), last),
            None => return Ok(all),
        };
    }
}

fn request(what: What) -> (&'static str, Json) {
    match what {
        What::List => ("delivery:list", json!({})),
        What::Pause { consumer } => ("delivery:pause", json!({"consumer": consumer})),
        What::Resume { consumer } => ("delivery:resume", json!({"consumer": consumer})),
        What::Rewind { consumer, to, .. } => {
            let To {
                position,
                time,
                end,
            } = to;
            let body =
                json!({"consumer": consumer, "position": position, "time": time, "end": end});
            ("delivery:rewind", body)
        }
        What::Redeliver {
            consumer,
            from,
            until,
            ..
        } => {
            let body = json!({"consumer": consumer, "from": from, "until": until});
            ("delivery:redeliver", body)
        }
        What::DeadLetters { consumer } => ("delivery:dead_letters", json!({"consumer": consumer})),
        What::Resend(letters) => ("delivery:resend", letters.body()),
        What::Drop(letters) => ("delivery:drop", letters.body()),
        What::Forget { consumer } => ("delivery:forget", json!({"consumer": consumer})),
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
        "{:<16} {}{reason}, at {}, {} events behind; {} under way, {} retrying, {} dead, \
         {} skipped, {} delivered",
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
