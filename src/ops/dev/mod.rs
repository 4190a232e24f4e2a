//! `skytrail dev`: serves while somebody writes a plugin.
//!
//! The server runs in this process. The plugin is a child process of it ([`child`]), which is ended
//! and started again when one of its sources changes ([`watch`]). Each call that the server makes
//! to a plugin is shown as a line on the terminal, mixed with the plugin's own output.

pub(super) mod child;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use skytrail_actors::plugin::RecentCalls;
use tokio::sync::mpsc;

use super::plugin::call_line;
use super::say;
use crate::app;
use crate::config::Config;
use crate::telemetry;
use child::{Child, ChildEnv};

/// The extensions of sources in the languages that there are packages for. JSON is not one of them:
/// it is often a plugin's data.
const SOURCES: &str = "py,js,mjs,cjs,ts,mts,cts";

/// What to run.
#[derive(Clone, Debug, Args)]
pub struct DevCommand {
    /// The command that runs the plugin, with its arguments, quoted as for a shell. Its environment
    /// has `SKYGEAR_ENDPOINT`, `API_KEY`, `MASTER_KEY`, `APP_NAME` and `PLUGIN_NAME`.
    #[arg(long, value_name = "COMMAND")]
    plugin: String,
    /// The plugin's name in `PLUGINS`, unless that is set.
    #[arg(long, default_value = "PLUGIN")]
    name: String,
    /// A folder in which a changed source restarts the plugin, or any file that does so when it
    /// changes.
    #[arg(long, value_name = "PATH", default_value = ".")]
    watch: Vec<PathBuf>,
    /// The extensions of sources, separated by commas. Other files may be written by the plugin
    /// itself and restart nothing. The same holds for what is in `DATA_DIR`, `node_modules`,
    /// `__pycache__`, `target`, or in a folder or file whose name begins with a dot.
    #[arg(long, value_name = "EXTENSIONS", value_delimiter = ',', default_value = SOURCES)]
    ext: Vec<String>,
}

impl DevCommand {
    /// Returns the settings that apply unless they are set.
    pub fn defaults(&self) -> Vec<(String, String)> {
        let pairs = [
            ("PLUGINS", self.name.as_str()),
            ("DEV_MODE", "YES"),
            ("LOG_LEVEL", "warn"),
        ];
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }
}

/// Serves and runs the plugin until the process is told to stop.
///
/// # Errors
/// The server does not start, the plugin's command is invalid, or a folder cannot be watched.
pub fn run(config: &Config, command: &DevCommand) -> Result<(), String> {
    telemetry::start(&config.log);
    config.check_data_dir().map_err(|error| error.to_string())?;
    let words = child::words("--plugin", &command.plugin)?;
    let (watcher, changes) = watch::begin(&command.watch, &command.ext, &config.data_dir)?;
    let name = config.plugins.first().map_or(&command.name, |it| &it.name);
    let system = actix_web::rt::System::new();
    let served = system.block_on(app::serve_with(config, |application| {
        let env = ChildEnv::of(config, application, name);
        let calls = Arc::clone(application.recent_calls());
        let words = words.clone();
        let changes = changes.clone();
        async move {
            tokio::select! {
                () = show(&calls) => {}
                () = keep_running(&words, &env, changes) => {}
            }
        }
    }));
    drop(watcher);
    served.map_err(|error| error.to_string())
}

/// Prints a line for each call, forever.
async fn show(calls: &RecentCalls) {
    let mut last = 0;
    loop {
        calls.beyond(last).await;
        for call in calls.after(last) {
            last = call.number;
            if let Ok(call) = serde_json::to_value(&call) {
                say(&call_line(&call));
            }
        }
    }
}

/// Runs the plugin; restarts it after a pause if it ends by itself, and at once if a file changes.
async fn keep_running(
    words: &[String],
    env: &ChildEnv,
    changes: Arc<tokio::sync::Mutex<mpsc::Receiver<PathBuf>>>,
) {
    let mut changes = changes.lock().await;
    let mut pauses = child::Pauses::default();
    loop {
        let mut child = match Child::start(words, env) {
            Ok(child) => child,
            Err(error) => {
                say(&format!("dev: {error}; trying again when a file changes"));
                match watch::settled(&mut changes).await {
                    Some(_) => continue,
                    None => return,
                }
            }
        };
        tokio::select! {
            ended = child.ended() => {
                say(&format!("dev: the plugin ended: {ended}"));
                tokio::select! {
                    () = pauses.wait() => {}
                    changed = watch::settled(&mut changes) => if changed.is_none() { return },
                }
            }
            changed = watch::settled(&mut changes) => {
                let Some(path) = changed else { return };
                say(&format!("dev: {} changed, restarting the plugin", path.display()));
                pauses = child::Pauses::default();
                child.end().await;
            }
        }
    }
}
