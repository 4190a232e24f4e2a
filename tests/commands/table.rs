//! Every command of the program, each with arguments with which it can be tried.

use std::collections::BTreeSet;
use std::process::Command;

/// What a command works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A running server, with its master key.
    Server,
    /// The data folder itself.
    DataFolder,
    /// Nothing that a wrong key or folder could keep from it.
    Neither,
}

/// What the output of a command is to its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// The command only shows something.
    Only,
    /// The command does something, and also says so.
    Also,
}

pub struct Row {
    words: &'static str,
    pub reach: Reach,
    pub shows: Shows,
}

impl Row {
    const fn new(words: &'static str, reach: Reach, shows: Shows) -> Self {
        Self {
            words,
            reach,
            shows,
        }
    }

    pub fn arguments(&self) -> Vec<&'static str> {
        self.words.split(' ').collect()
    }
}

use Reach::{DataFolder, Neither, Server};
use Shows::{Also, Only};

/// Those that only show something succeed on a server with the user `ada`, a record `note/1`, an erasure,
/// and a consumer `log/reader`.
pub const ROWS: &[Row] = &[
    Row::new("serve", DataFolder, Also),
    Row::new("config", Neither, Only),
    Row::new("version", Neither, Only),
    Row::new("health", Server, Only),
    Row::new("log tail", DataFolder, Only),
    Row::new("log show 1", DataFolder, Only),
    Row::new("log follow --from 1", Server, Only),
    Row::new("log search", Server, Only),
    Row::new("log stat", DataFolder, Only),
    Row::new("log verify", DataFolder, Also),
    Row::new("log key", DataFolder, Only),
    Row::new("log export", DataFolder, Only),
    Row::new("audit who-could-read note/1 --at 1", Server, Only),
    Row::new("audit changes --user ada", Server, Only),
    Row::new("audit refusals", Server, Only),
    Row::new("captured list", Server, Only),
    Row::new("captured retry 1", Server, Also),
    Row::new("captured discard 1", Server, Also),
    Row::new("delivery list", Server, Only),
    Row::new("delivery pause log/reader", Server, Also),
    Row::new("delivery resume log/reader", Server, Also),
    Row::new("delivery rewind log/reader --end", Server, Also),
    Row::new("delivery redeliver log/reader 1 2", Server, Also),
    Row::new("delivery dead-letters log/reader", Server, Only),
    Row::new("delivery resend log/reader 1/note", Server, Also),
    Row::new("delivery drop log/reader 1/note", Server, Also),
    Row::new("delivery forget log/reader", Server, Also),
    Row::new("history list note/1", Server, Only),
    Row::new(
        "history show note/1 --as-of 2100-01-01T00:00:00Z",
        Server,
        Only,
    ),
    Row::new("history restore note/1 --as-of 1", Server, Also),
    Row::new("erase record note/1 --why law", Server, Also),
    Row::new("erase event 1 --why law", Server, Also),
    Row::new("erase field note text --why law", Server, Also),
    Row::new("erase user ada --why law", Server, Also),
    Row::new("erase list", Server, Only),
    Row::new("compact", Server, Also),
    Row::new("index list", DataFolder, Only),
    Row::new("index declare note text", DataFolder, Also),
    Row::new("index forbid note text", DataFolder, Also),
    Row::new("index pin note text", DataFolder, Also),
    Row::new("index free note text", DataFolder, Also),
    Row::new("task list", Server, Only),
    Row::new("task run chat/clean", Server, Also),
    Row::new("task pause chat/clean", Server, Also),
    Row::new("task resume chat/clean", Server, Also),
    Row::new("plugin list", Server, Only),
    Row::new("plugin calls", Server, Only),
    Row::new("plugin test chat op name", Server, Also),
    Row::new("plugin init chat", Server, Also),
    Row::new("push list", Server, Only),
    Row::new("push withdraw --all", Server, Also),
    Row::new("push retry", Server, Also),
    Row::new("replay --exec true", Server, Also),
    Row::new("dev --plugin true", DataFolder, Also),
    Row::new("export", Server, Only),
    Row::new("export user --format csv", Server, Only),
    // Nothing answers there.
    Row::new(
        "import skygear --database-url postgres://127.0.0.1:1/app",
        DataFolder,
        Also,
    ),
    Row::new("import records /dev/null", Server, Also),
    Row::new("import files --assets-from .", DataFolder, Also),
    Row::new("rebuild", DataFolder, Also),
    Row::new("rebuild --verify", DataFolder, Also),
    Row::new("backup backups", DataFolder, Also),
    // It fills a folder of its own.
    Row::new("restore backups --to restored", Neither, Also),
];

/// Asks the program for its commands below some words, as a person would.
fn collect(words: &[String], commands: &mut BTreeSet<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    let output = command.args(words).arg("-h").output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    let help = String::from_utf8(output.stdout).unwrap();
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        commands.insert(words.join(" "));
        return;
    };
    let list = list.lines().take_while(|line| !line.is_empty());
    let names = list.filter_map(|line| line.split_whitespace().next());
    for name in names.filter(|name| *name != "help") {
        collect(&[words, &[name.to_owned()]].concat(), commands);
    }
}

#[test]
fn every_command_has_its_row() {
    let mut commands = BTreeSet::new();
    collect(&[], &mut commands);
    let is_of = |row: &Row, command: &str| {
        let rest = row.words.strip_prefix(command);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let without_row = commands
        .iter()
        .filter(|it| !ROWS.iter().any(|row| is_of(row, it)));
    let without_row: Vec<_> = without_row.collect();
    assert!(without_row.is_empty(), "without a row: {without_row:?}");
    let without_command = ROWS
        .iter()
        .filter(|row| !commands.iter().any(|it| is_of(row, it)));
    let without_command: Vec<_> = without_command.map(|row| row.words).collect();
    assert!(
        without_command.is_empty(),
        "no command: {without_command:?}"
    );
}
