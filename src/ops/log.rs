//! `skytrail log`: reads the event log, also while a server writes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value as Json, json};
use skytrail_actors::log::Erasures;
use skytrail_actors::log::journal::Segments;
use skytrail_schema::event::{Commit, Event, Shown, Stream};

use super::history::{hooks, who_did};
use super::log_proof::{self, ExportCommand, VerifyCommand};
use super::{log_files, open_log, say};
use crate::config::Config;
use crate::hex;

/// How many events are read at once.
const READ_EVENTS: usize = 4096;

/// A way to read the log.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Prints the last events, one per line.
    Tail {
        /// How many events to print.
        #[arg(short = 'n', long, default_value_t = 20)]
        events: u64,
    },
    /// Prints the event at a position, or every event of a stream, in full.
    Show {
        /// A position such as 42, or a stream such as `record/note/1`, `type/note`, `user/<id>`.
        what: String,
    },
    /// Prints events of a running server as they arrive, one JSON object per line, until it is
    /// stopped.
    Follow(super::log_follow::FollowCommand),
    /// Searches a running server's log by actor, target, origin and time; prints the events found,
    /// or writes them to a file as JSON Lines or CSV.
    Search(Box<super::log_search::SearchCommand>),
    /// Prints the number of events, commits, segments and bytes, and of events by kind.
    Stat,
    /// Checks every frame, position, payload, chain link, seal and signed checkpoint.
    Verify(VerifyCommand),
    /// Prints the public key for checking the signatures of checkpoints. Keep it elsewhere.
    Key,
    /// Prints a part of the log with all that is needed to check it without this program, one JSON
    /// object per line; examples/verify-log checks it.
    Export(ExportCommand),
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong, with segment and offset for damage.
pub fn run(config: &Config, command: LogCommand) -> Result<(), String> {
    match &command {
        LogCommand::Follow(command) => return super::log_follow::run(config, command),
        LogCommand::Search(command) => return super::log_search::run(config, command),
        _ => {}
    }
    let segments = open_log(config)?;
    match command {
        LogCommand::Tail { events } => tail(&segments, events),
        LogCommand::Show { what } => show(&segments, &what),
        LogCommand::Follow(_) | LogCommand::Search(_) => Ok(()),
        LogCommand::Stat => stat(&segments),
        LogCommand::Verify(command) => verify(config, &segments, &command),
        LogCommand::Key => {
            super::show(&log_proof::key(config)?.public_text());
            Ok(())
        }
        LogCommand::Export(command) => log_proof::export(config, &segments, &command),
    }
}

fn tail(segments: &Segments, events: u64) -> Result<(), String> {
    let from = segments.head().saturating_sub(events) + 1;
    let mut blanks = Blanks::of(segments);
    for_each(segments, from, |commit, event| {
        if event.position >= from {
            blanks.show(commit, event, |commit, event| {
                let lines = lines(&json!(Shown { commit, event }));
                lines.iter().for_each(|line| super::show(line));
            });
        }
        true
    })
}

/// Formats an event in one line, with a line for each hook that changed it.
pub(super) fn lines(event: &Json) -> Vec<String> {
    let text = |place: &str| event.pointer(place).and_then(Json::as_str).unwrap_or("-");
    let number = |place: &str| event.pointer(place).and_then(Json::as_u64);
    let (time, kind, stream) = (text("/time"), text("/kind"), text("/stream"));
    let (position, version) = (number("/position"), number("/version"));
    let (position, version) = (position.unwrap_or_default(), version.unwrap_or_default());
    let who = who_did(event);
    let line = format!("{position:>8}  {time}  {kind:<16}  {stream} v{version}  by {who}");
    [vec![line], hooks(event)].concat()
}

fn show(segments: &Segments, what: &str) -> Result<(), String> {
    let position: Option<u64> = what.parse().ok();
    let stream = Stream::parse(what);
    if position.is_none() && stream.is_none() {
        return Err(format!(
            "{what:?} is neither a position nor a stream, such as record/note/1"
        ));
    }
    let (mut found, mut blanks) = (false, Blanks::of(segments));
    for_each(segments, position.unwrap_or(1), |commit, event| {
        let is_match = position == Some(event.position) || stream.as_ref() == Some(&event.stream);
        if is_match {
            found = true;
            blanks.show(commit, event, |commit, event| {
                super::show_json(&format!("{:#}", describe(commit, event)));
            });
        }
        position.is_none_or(|position| event.position < position)
    })?;
    if found {
        Ok(())
    } else {
        Err(format!("the log contains nothing of {what}"))
    }
}

/// Formats an event as JSON for people.
fn describe(commit: &Commit, event: &Event) -> Json {
    let mut shown = json!(Shown { commit, event });
    if let Some(members) = shown.as_object_mut() {
        members.insert(
            "payload_hash".to_owned(),
            hex::encode(&event.payload_hash).into(),
        );
        members.insert("chain".to_owned(), hex::encode(&commit.chain).into());
    }
    shown
}

fn stat(segments: &Segments) -> Result<(), String> {
    let mut kinds: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut commits, mut times) = (0_u64, None);
    for_each(segments, 1, |commit, event| {
        *kinds.entry(event.body.kind().name()).or_default() += 1;
        if event.position == commit.first_position() {
            commits += 1;
            let first = times.map_or(commit.time, |(first, _)| first);
            times = Some((first, commit.time));
        }
        true
    })?;
    let (num_segments, bytes) = segments.size();
    super::show(&format!("events    {}", segments.head()));
    super::show(&format!("commits   {commits}"));
    super::show(&format!("segments  {num_segments}"));
    super::show(&format!("bytes     {bytes}"));
    if let Some((first, last)) = times {
        super::show(&format!("from      {first}"));
        super::show(&format!("to        {last}"));
    }
    for (kind, count) in kinds {
        super::show(&format!("  {kind:<24}{count}"));
    }
    Ok(())
}

fn verify(config: &Config, segments: &Segments, command: &VerifyCommand) -> Result<(), String> {
    let marks = log_proof::marks(config, segments, command)?;
    // The server may have written and signed more in the meantime.
    let newer = marks
        .chains
        .last_key_value()
        .is_some_and(|(signed, _)| *signed > segments.head());
    let reopened = newer.then(|| open_log(config)).transpose()?;
    let segments = reopened.as_ref().unwrap_or(segments);
    let bar = ProgressBar::new(segments.size().1);
    let style =
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.map_err(|error| error.to_string())?);
    let report = segments.verify(&marks.chains, |progress| bar.set_position(progress.bytes));
    bar.finish_and_clear();
    let report = report.map_err(|error| error.to_string())?;
    if report.num_erased > 0 {
        say(&format!(
            "{} events are erased, and an erasure accounts for each",
            report.num_erased
        ));
    }
    say(&format!(
        "{} events in {} commits are as they were written; the chain ends at {}",
        report.num_events,
        report.num_commits,
        hex::encode(&report.chain)
    ));
    if let Some(position) = report.restored_at {
        say(&format!(
            "it was restored from a backup, as its event {position} says"
        ));
    }
    let file = command.checkpoints.as_ref().zip(marks.num_elsewhere);
    let elsewhere = file.map(|(path, number)| format!("; {} has {number} of them", path.display()));
    match marks.chains.last_key_value() {
        Some((position, _)) => say(&format!(
            "it agrees with {} signed checkpoints, the last one at {position}{}",
            report.num_marks,
            elsewhere.unwrap_or_default()
        )),
        None => say("there are no signed checkpoints"),
    }
    if command.files {
        log_files::verify(config, segments)?;
    }
    Ok(())
}

/// Adds to erased events the erasure that took them. Erasures come later in the log, and are looked
/// up when the first erased event is shown.
struct Blanks<'a> {
    segments: &'a Segments,
    erasures: Option<Erasures>,
}

impl<'a> Blanks<'a> {
    fn of(segments: &'a Segments) -> Self {
        Self {
            segments,
            erasures: None,
        }
    }

    /// Shows an event, with its mark if it is erased.
    fn show(&mut self, commit: &Arc<Commit>, event: &Event, show: impl Fn(&Commit, &Event)) {
        if event.body.erased().is_none() {
            return show(commit, event);
        }
        let segments = self.segments;
        let erasures = self.erasures.get_or_insert_with(|| {
            let erasures = Erasures::default();
            // An error is reported when reading reaches that place.
            let _ = for_each(segments, event.position, |commit, event| {
                erasures.learn(commit, event);
                true
            });
            erasures
        });
        let marked = erasures.shown(Arc::clone(commit));
        let found = marked
            .events
            .iter()
            .find(|it| it.position == event.position);
        show(&marked, found.unwrap_or(event));
    }
}

/// Visits events from a position on, until `visit` returns false.
pub(super) fn for_each(
    segments: &Segments,
    from: u64,
    mut visit: impl FnMut(&Arc<Commit>, &Event) -> bool,
) -> Result<(), String> {
    let mut position = from.max(1);
    while position <= segments.head() {
        let commits = segments
            .read(position, READ_EVENTS)
            .map_err(|error| error.to_string())?;
        for (commit, event) in commits
            .iter()
            .flat_map(|commit| commit.events.iter().map(move |event| (commit, event)))
        {
            if !visit(commit, event) {
                return Ok(());
            }
        }
        let Some(last) = commits.last() else { break };
        position = last.last_position() + 1;
    }
    Ok(())
}
