//! The process of the plugin under development.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::app::Application;
use crate::config::{Config, Secret, local_client_address};
use crate::ops::remote::RunningServer;
use crate::process::ProcessGroup;

/// How long a plugin may take to finish its work before a restart.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// The first and the longest pause before a plugin that ended by itself is started again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A plugin that ran for this long did not fail at its start.
const LONG_RUN: Duration = Duration::from_secs(30);

/// The environment variables of the plugin.
pub(in crate::ops) struct ChildEnv(Vec<(&'static str, String)>);

impl ChildEnv {
    pub(in crate::ops) fn of(config: &Config, application: &Application, plugin: &str) -> Self {
        let keys = &application.keys;
        let endpoint = format!("http://{}", local_client_address(application.address));
        let mut all = common(config, endpoint, &keys.master);
        all.push(("API_KEY", keys.api.reveal().to_owned()));
        all.push(("PLUGIN_NAME", plugin.to_owned()));
        Self(all)
    }

    /// Returns the variables of a plugin that is only tried out, by a server that runs elsewhere.
    pub(in crate::ops) fn sandbox(
        config: &Config,
        server: &RunningServer,
        (plugin, generation): (Option<&str>, u64),
    ) -> Self {
        let endpoint = format!("{}/_/sandbox", server.base_url());
        let mut all = common(config, endpoint, server.master_key());
        all.push(("PLUGIN_GENERATION", generation.to_string()));
        all.extend(plugin.map(|name| ("PLUGIN_NAME", name.to_owned())));
        Self(all)
    }
}

fn common(config: &Config, endpoint: String, master_key: &Secret) -> Vec<(&'static str, String)> {
    vec![
        ("SKYGEAR_ENDPOINT", endpoint),
        ("MASTER_KEY", master_key.reveal().to_owned()),
        ("APP_NAME", config.app.name.clone()),
        // Its output must be visible at once.
        ("PYTHONUNBUFFERED", "1".to_owned()),
        // Python detects outdated compiled files by size and modification second: a file that
        // changed twice within a second could run in its old form.
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
    ]
}

/// Splits a command into its words.
///
/// # Errors
/// A quote is not closed, or there is no word.
pub(in crate::ops) fn words(flag: &str, command: &str) -> Result<Vec<String>, String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in command.chars() {
        match (quote, letter) {
            (Some(end), _) if letter == end => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    match (quote, words.is_empty()) {
        (Some(quote), _) => Err(format!("{flag} {command:?}: {quote} is not closed")),
        (None, true) => Err(format!("{flag}: no command")),
        (None, false) => Ok(words),
    }
}

/// The running plugin with all the processes that it started. They end when this is dropped, and
/// when the current process ends, however that happens.
pub(in crate::ops) struct Child(ProcessGroup);

impl Child {
    /// Starts the plugin. Its output goes to the terminal unchanged.
    ///
    /// # Errors
    /// Returns a sentence that says what is wrong.
    pub(in crate::ops) fn start(words: &[String], env: &ChildEnv) -> Result<Self, String> {
        let (program, args) = words.split_first().ok_or("no command")?;
        let mut command = Command::new(program);
        command
            .args(args)
            .envs(env.0.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null());
        let started = ProcessGroup::start(&mut command);
        let group = started.map_err(|error| format!("{program} cannot be run: {error}"))?;
        Ok(Self(group))
    }

    /// Waits until the plugin ends, then ends all the processes that it started.
    pub(in crate::ops) async fn ended(&mut self) -> String {
        let ended = self.0.wait_and_end().await;
        ended.map_or_else(
            |error| error.to_string(),
            |status: ExitStatus| status.to_string(),
        )
    }

    /// Asks the plugin to end, and kills it if it does not.
    pub(in crate::ops) async fn end(mut self) {
        self.0.ask_to_end();
        let _ = timeout(END_TIMEOUT, self.0.wait_and_end()).await;
    }
}

/// Pauses that grow while the plugin keeps ending soon after its start.
pub(in crate::ops) struct Pauses {
    next: Duration,
    since: Instant,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            next: FIRST_PAUSE,
            since: Instant::now(),
        }
    }
}

impl Pauses {
    pub(in crate::ops) async fn wait(&mut self) {
        if self.since.elapsed() > LONG_RUN {
            self.next = FIRST_PAUSE;
        }
        sleep(self.next).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_as_a_shell_would() {
        let cases = [
            ("python plugin.py", vec!["python", "plugin.py"]),
            (
                "  a  'b c' \"d'e\" f\"\"g ''",
                vec!["a", "b c", "d'e", "fg", ""],
            ),
        ];
        for (command, expected) in cases {
            assert_eq!(words("--plugin", command).unwrap(), expected);
        }
        assert!(words("--exec", " ").is_err());
        assert!(
            words("--exec", "a 'b")
                .unwrap_err()
                .contains("' is not closed")
        );
    }
}
