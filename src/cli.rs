//! The command line: parses the arguments and runs the command that they name.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use skytrail_actors::clock::{Clock as _, SystemClock};

use crate::config::{Config, Origin, Setting, Sources};
use crate::{app, ops, telemetry};

/// A backend for realtime apps in one binary: every write is an event.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    settings: SettingFlags,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  skytrail serve                                 serve on port 3000, data below ./data
  HOST=127.0.0.1:8080 skytrail serve             settings come from the environment,
  skytrail --set APP_NAME=chat serve             from flags, skytrail.toml or .env
  skytrail health                                is the running server well, and if not, why
  skytrail log tail                              the last events, while the server runs
  skytrail log show record/note/1                everything that happened to a record
  skytrail dev --plugin \"skytrail-plugin x.py\"   serve, and run a plugin that you write
  skytrail plugin calls --follow                 what plugins are asked, and how they answer
  skytrail replay --exec \"skytrail-plugin x.py\"  would a new version do what the old one did?
  skytrail index list                            which indexes the store created, and why
  skytrail erase record note/1 --why law         erase a record for good
  skytrail task list                             what runs when, and how it ended
  skytrail delivery list                         how far plugins have got with events
  skytrail captured list                         plugins' SQL changes that the log refused
  skytrail push list                             pushes that wait for Apple, Google or a browser's service
  skytrail export note --output notes.jsonl      all records of a type, as of one moment
  skytrail import skygear --database-url URL     import a Skygear v1 app
  skytrail rebuild --verify                      does the record store match the log?
  skytrail backup /mnt/backups                   back up what is new, while the server runs
  skytrail restore /mnt/backups --to data        restore the newest backup into an empty folder

Exit codes: 0 done, 1 failed, 2 unknown or missing arguments, or wrong settings, 3 a replay found differences,
70 the log is in doubt, 141 nobody reads the output (only of a command that shows something; others finish their work).";

/// The exit code of a replay that found differences.
const DIFFERENT: u8 = 3;

#[derive(Debug, Args)]
struct SettingFlags {
    /// Where to listen, as `[host]:port` (`HOST`).
    #[arg(long, global = true, value_name = "ADDRESS")]
    host: Option<String>,
    /// The folder for the server's data (`DATA_DIR`).
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Sets any setting by its name, such as `DEV_MODE=NO`; can be repeated.
    #[arg(long = "set", global = true, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// The settings file; defaults to ./skytrail.toml if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server until it is told to stop.
    Serve,
    /// Prints every setting and where it came from, without secrets.
    Config,
    /// Prints the version, like --version.
    Version,
    /// Says whether a running server is well, and what is wrong; exit code 1 unless it is.
    Health(ops::remote::ServerFlag),
    /// Reads the event log; also while the server runs.
    #[command(subcommand)]
    Log(ops::log::LogCommand),
    /// Answers who did what, and who was refused access.
    #[command(subcommand)]
    Audit(ops::audit::AuditCommand),
    /// Shows the changes that plugins made by SQL and that the log could not accept, and retries
    /// them.
    Captured(ops::captured::CapturedCommand),
    /// Shows how far plugins are with their after-hooks, and pauses, repeats or drops deliveries.
    Delivery(ops::delivery::DeliveryCommand),
    /// Shows what a record was and who changed it, or restores it.
    #[command(subcommand)]
    History(ops::history::HistoryCommand),
    /// Erases data for good, from the log and from everything derived from it.
    #[command(subcommand)]
    Erase(ops::erase::EraseCommand),
    /// Erases old versions that the types' retention allows to go, and reports how much the journal
    /// shrank.
    Compact(ops::remote::ServerFlag),
    /// Shows the record store's indexes and what they are for, or asks for one.
    #[command(subcommand)]
    Index(ops::index::IndexCommand),
    /// Lists a running server's scheduled tasks, or runs one.
    #[command(subcommand)]
    Task(ops::task::TaskCommand),
    /// Shows the plugins of a running server, and tries them out.
    #[command(subcommand)]
    Plugin(ops::plugin::PluginCommand),
    /// Shows the pushes that wait at a running server, gives them up, or has them tried now.
    Push(ops::push::PushCommand),
    /// Runs a plugin on past writes and shows what would be different; stores nothing.
    Replay(ops::replay::ReplayCommand),
    /// Serves while you write a plugin: runs it, restarts it when its sources change, and shows
    /// each call.
    Dev(ops::dev::DevCommand),
    /// Writes a running server's records as JSON lines or as a table, all as of one moment.
    Export(ops::export::ExportCommand),
    /// Imports the data of another server, or exported files.
    #[command(subcommand)]
    Import(ops::import::ImportCommand),
    /// Rebuilds the record store from the log, or compares the two.
    Rebuild(ops::rebuild::RebuildCommand),
    /// Backs up the log, keys and files to a folder or a bucket; also while the server runs.
    Backup(ops::backup::BackupCommand),
    /// Restores a backup into an empty folder, completely or up to a position or a time.
    Restore(ops::backup::RestoreCommand),
}

/// Parses the arguments and runs the command.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::Version) {
        ops::show(Cli::command().render_version().trim_end());
        return ExitCode::SUCCESS;
    }
    let defaults = match &cli.command {
        Command::Dev(command) => command.defaults(),
        _ => Vec::new(),
    };
    let (config, settings) = match read_config(&cli.settings, defaults) {
        Ok(read) => read,
        Err(mistakes) => {
            complain(&mistakes);
            return ExitCode::from(2);
        }
    };
    let done = match cli.command {
        Command::Serve => serve(&config),
        // Needs no settings, and was handled above.
        Command::Version => Ok(()),
        Command::Config => {
            print_settings(&settings);
            let unknown = config.unknown.iter().map(ToString::to_string);
            complain(&unknown.collect::<Vec<_>>());
            Ok(())
        }
        Command::Health(server) => ops::health::run(&config, &server),
        Command::Log(command) => ops::log::run(&config, command),
        Command::Audit(command) => ops::audit::run(&config, command),
        Command::Captured(command) => ops::captured::run(&config, &command),
        Command::Delivery(command) => ops::delivery::run(&config, command),
        Command::History(command) => ops::history::run(&config, command),
        Command::Compact(server) => ops::erase::compact(&config, &server),
        Command::Erase(command) => ops::erase::run(&config, command),
        Command::Index(command) => ops::index::run(&config, command),
        Command::Task(command) => ops::task::run(&config, command),
        Command::Plugin(command) => ops::plugin::run(&config, command),
        Command::Push(command) => ops::push::run(&config, &command),
        Command::Replay(command) => match ops::replay::run(&config, &command) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(DIFFERENT),
            Err(error) => Err(error),
        },
        Command::Dev(command) => ops::dev::run(&config, &command),
        Command::Export(command) => ops::export::run(&config, &command),
        Command::Import(command) => ops::import::run(&config, command),
        Command::Rebuild(command) => ops::rebuild::run(&config, &command),
        Command::Backup(command) => ops::backup::run(&config, &command),
        Command::Restore(command) => ops::backup::restore(&config, &command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&[error]);
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config) -> Result<(), String> {
    // An earlier time is shown as the first moment of 1970. Libraries do not expect it.
    if SystemClock.now().micros() == 0 {
        let why =
            "the machine's clock shows a time before 1970: set it, and start the server again";
        return Err(why.to_owned());
    }
    telemetry::start(&config.log);
    let system = actix_web::rt::System::new();
    system
        .block_on(app::serve(config))
        .map_err(|error| error.to_string())
}

fn read_config(
    flags: &SettingFlags,
    defaults: Vec<(String, String)>,
) -> Result<(Config, Vec<Setting>), Vec<String>> {
    let sources = read_sources(flags).map_err(|mistake| vec![mistake])?;
    let sources = sources.with(Origin::Default, defaults);
    Config::read(&sources).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

/// The one place that reads the environment.
fn read_sources(flags: &SettingFlags) -> Result<Sources, String> {
    let mut sources = Sources::default().with_environment(std::env::vars_os());
    match std::fs::read_to_string(".env") {
        Ok(text) => sources = sources.with_dot_env(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!(".env: {error}")),
    }
    let default = PathBuf::from("skytrail.toml");
    let file = flags
        .config
        .clone()
        .or_else(|| default.exists().then_some(default));
    if let Some(file) = file {
        let text = std::fs::read_to_string(&file);
        let name = file.display().to_string();
        let text = text.map_err(|error| format!("{name}: {error}"))?;
        sources = sources.with_toml(&name, &text)?;
    }
    let mut set = Vec::new();
    for pair in &flags.set {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("--set {pair:?}: expected NAME=VALUE"))?;
        set.push((name.to_owned(), value.to_owned()));
    }
    let named = [("HOST", &flags.host), ("DATA_DIR", &flags.data_dir)];
    let named = named.into_iter();
    set.extend(named.filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    Ok(sources.with(Origin::Flag, set))
}

fn print_settings(settings: &[Setting]) {
    for Setting {
        name, value, place, ..
    } in settings
    {
        ops::show(&format!("{name}={value}  # {place}"));
    }
}

fn complain(errors: &[String]) {
    errors.iter().for_each(|error| ops::complain(error));
}
