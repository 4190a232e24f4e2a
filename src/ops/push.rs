//! `skytrail push`: the pushes that wait at a running server.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::remote::{RunningServer, ServerFlag, block_on, set};
use super::{say, show, show_json};
use crate::config::Config;

/// What to do.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PushCommand {
    #[command(flatten)]
    server: ServerFlag,
    #[command(subcommand)]
    what: PushAction,
}

const EXAMPLES: &str = "\
Examples:
  skytrail push list                          what waits, and why
  skytrail push list --contents --user ada    also what it says, for one user
  skytrail push withdraw --service apns       nobody gets what waits for this service
  skytrail push retry                         try again now: the service is back";

#[derive(Clone, Debug, Subcommand)]
enum PushAction {
    /// Lists the pushes that wait, the oldest first.
    List {
        #[command(flatten)]
        selection: Selection,
        /// Shows each as JSON, with what the device gets.
        #[arg(long)]
        contents: bool,
    },
    /// Gives up pushes that wait: they are not sent. What is being sent is not tried again.
    #[command(group = ArgGroup::new("which").multiple(true).required(true)
        .args(["all", "service", "user", "device", "ids"]))]
    Withdraw {
        #[command(flatten)]
        selection: Selection,
        /// Selects all.
        #[arg(long, conflicts_with_all = ["service", "user", "device", "ids"])]
        all: bool,
    },
    /// Tries everything now that waits for another attempt.
    Retry {
        /// Only this service: apns, fcm or web.
        #[arg(long)]
        service: Option<String>,
    },
}

/// Selects pushes; each flag leaves out others.
#[derive(Clone, Debug, Args)]
struct Selection {
    /// The ids of pushes.
    ids: Vec<String>,
    /// Only this service: apns, fcm or web.
    #[arg(long)]
    service: Option<String>,
    /// Only those for this user.
    #[arg(long)]
    user: Option<String>,
    /// Only those for this device.
    #[arg(long)]
    device: Option<String>,
}

impl Selection {
    fn body(&self) -> Json {
        let members = [
            ("service", json!(self.service)),
            ("user", json!(self.user)),
            ("device", json!(self.device)),
            ("ids", json!(self.ids)),
        ];
        let given = members.into_iter().filter(|(_, value)| !value.is_null());
        let given: Map<String, Json> = given.map(|(name, value)| (name.into(), value)).collect();
        Json::Object(given)
    }
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: &PushCommand) -> Result<(), String> {
    let server = RunningServer::find(config, &command.server)?;
    match &command.what {
        PushAction::List {
            selection,
            contents,
        } => list(&server, selection, *contents),
        PushAction::Withdraw { selection, all } => {
            let mut body = selection.body();
            set(&mut body, "all", json!(all));
            let done = block_on(server.call("push:withdraw", body))?;
            let num_withdrawn = done.get("num_withdrawn").unwrap_or(&Json::Null);
            say(&format!("{num_withdrawn} pushes withdrawn"));
            Ok(())
        }
        PushAction::Retry { service } => {
            let states = block_on(server.call("push:retry", json!({"service": service})))?;
            let states = states.as_array().map(Vec::as_slice).unwrap_or_default();
            states
                .iter()
                .for_each(|state| say(&describe_service(state)));
            Ok(())
        }
    }
}

fn list(server: &RunningServer, selection: &Selection, is_whole: bool) -> Result<(), String> {
    let (mut body, mut is_none) = (selection.body(), true);
    loop {
        let page = block_on(server.call("push:list", body.clone()))?;
        let page = page.as_array().cloned().unwrap_or_default();
        let Some(last) = page.last() else { break };
        set(
            &mut body,
            "after",
            last.get("id").cloned().unwrap_or_default(),
        );
        is_none = false;
        for push in &page {
            match is_whole {
                true => show_json(&push.to_string()),
                false => show(&describe(push)),
            }
        }
    }
    if is_none && !is_whole {
        show("no push waits");
    }
    Ok(())
}

fn describe(push: &Json) -> String {
    let text = |name: &str| push.get(name).and_then(Json::as_str).unwrap_or_default();
    let attempts = push.get("attempts").and_then(Json::as_u64);
    let state = match attempts.unwrap_or_default() {
        0 => "not tried yet".to_owned(),
        attempts => format!(
            "{attempts} attempts, next at {}: {}",
            text("next_attempt_at"),
            text("failure")
        ),
    };
    let user = match text("user") {
        "" => "nobody",
        user => user,
    };
    format!(
        "{} {:<5} {} for {user}, device {}: {state}",
        text("id"),
        text("service"),
        text("requested_at"),
        text("device"),
    )
}

fn describe_service(state: &Json) -> String {
    let number = |name: &str| state.get(name).and_then(Json::as_u64).unwrap_or_default();
    let service = state.get("service").and_then(Json::as_str);
    format!(
        "{:<5} {} wait, {} in flight",
        service.unwrap_or_default(),
        number("num_queued"),
        number("num_in_flight"),
    )
}
