//! `skytrail import`: imports the data of other servers, and files.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use skytrail_actors::import::ImportOptions;

use super::say;
use crate::config::{Config, S3Settings, Secret};
use crate::import::Report;
use crate::import::files::{self, AssetSource};
use crate::import::skygear::{self, Options};
use crate::telemetry;

/// What to import.
#[derive(Clone, Debug, Subcommand)]
pub enum ImportCommand {
    /// Imports the PostgreSQL database of a Skygear v1 app, while no server runs here. What already
    /// exists here stays, so the import can be interrupted and started again.
    Skygear(Box<Skygear>),
    /// Imports records from a file into a running server. The file is one that `skytrail export`
    /// wrote, or has the same form. What already exists here stays, so the import can be
    /// interrupted and started again.
    Records(Box<super::import_records::Records>),
    /// Copies the app's files from another folder or bucket to where the settings keep them
    /// (`ASSET_STORE`), with their media types, while no server runs here. Files that are there
    /// already stay, so the import can be interrupted and started again.
    Files(Box<FilesFrom>),
}

/// See [`ImportCommand::Files`].
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("from").required(true)))]
pub struct FilesFrom {
    #[command(flatten)]
    from: AssetArgs,
    /// Writes every file that is not copied, and why, to a file: a JSON object per line.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// See [`ImportCommand::Skygear`].
#[derive(Clone, Debug, Args)]
pub struct Skygear {
    /// The database's address, such as `postgres://user:password@host/database`.
    #[arg(
        long,
        env = "SKYGEAR_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: String,
    /// The app's name in that database; defaults to this app's name (`APP_NAME`).
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Only reports what an import would do.
    #[arg(long)]
    dry_run: bool,
    /// Updates records that exist here already and were changed later there than here.
    #[arg(long)]
    update: bool,
    /// Writes every row that is not imported, and why, to a file: a JSON object per line.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    assets: AssetArgs,
}

/// Where files are copied from.
#[derive(Clone, Debug, Args)]
struct AssetArgs {
    /// Copies the files from this folder (`ASSET_STORE_PATH`).
    #[arg(long, value_name = "FOLDER", group = "from")]
    assets_from: Option<PathBuf>,
    /// Copies the files from this S3 bucket.
    #[arg(
        long,
        value_name = "BUCKET",
        requires = "assets_access_key",
        group = "from"
    )]
    assets_bucket: Option<String>,
    /// The bucket's region.
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    assets_region: String,
    /// The address of the S3 service, if it is not Amazon's.
    #[arg(long, value_name = "URL")]
    assets_endpoint: Option<String>,
    /// The access key of the bucket.
    #[arg(long, env = "SKYGEAR_ASSET_ACCESS_KEY", requires = "assets_secret_key")]
    assets_access_key: Option<String>,
    /// The secret of the access key.
    #[arg(long, env = "SKYGEAR_ASSET_SECRET_KEY", hide_env_values = true)]
    assets_secret_key: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: ImportCommand) -> Result<(), String> {
    match command {
        ImportCommand::Skygear(skygear) => skygear.run(config),
        ImportCommand::Files(files) => files.run(config),
        ImportCommand::Records(records) => super::import_records::run(config, &records),
    }
}

/// Reports the outcome of everything, at the end of an import that was `done` or failed.
///
/// # Errors
/// The import failed, or something was refused.
pub(super) fn end(
    done: Result<(), String>,
    report: Report,
    (path, is_dry): (Option<&Path>, bool),
) -> Result<(), String> {
    if done.is_err() && !report.has_begun() {
        return done;
    }
    let num_refused = report.num_refused();
    let lines = report
        .finish()
        .map_err(|error| format!("the report cannot be written: {error}"))?;
    for line in lines {
        say(&line);
    }
    if is_dry {
        say("a dry run: nothing was imported");
    }
    done?;
    match (num_refused, path) {
        (0, _) => Ok(()),
        (_, None) => Err(format!("{num_refused} refused, see above")),
        (_, Some(path)) => Err(format!("{num_refused} refused, see {}", path.display())),
    }
}

impl FilesFrom {
    fn run(&self, config: &Config) -> Result<(), String> {
        config.check_data_dir().map_err(|error| error.to_string())?;
        telemetry::start(&config.log);
        let mut report = begin(self.report.as_deref())?;
        let from = self.from.source().ok_or("nothing to copy from")?;
        let system = actix_web::rt::System::new();
        let done = system.block_on(files::run(config, &from, &mut report));
        end(done, report, (self.report.as_deref(), false))
    }
}

fn begin(path: Option<&Path>) -> Result<Report, String> {
    Report::begin(path).map_err(|error| format!("the report cannot be written: {error}"))
}

impl Skygear {
    fn run(&self, config: &Config) -> Result<(), String> {
        config.check_data_dir().map_err(|error| error.to_string())?;
        telemetry::start(&config.log);
        let mut report = begin(self.report.as_deref())?;
        let options = Options {
            url: self.database_url.clone(),
            app: self.app.clone().unwrap_or_else(|| config.app.name.clone()),
            assets: self.assets.source(),
            import: ImportOptions {
                is_dry: self.dry_run,
                updates: self.update,
                revives: false,
            },
        };
        let system = actix_web::rt::System::new();
        let done = system.block_on(skygear::run(config, &options, &mut report));
        end(done, report, (self.report.as_deref(), self.dry_run))
    }
}

impl AssetArgs {
    fn source(&self) -> Option<AssetSource> {
        if let Some(folder) = &self.assets_from {
            return Some(AssetSource::Folder(folder.clone()));
        }
        let bucket = self.assets_bucket.clone()?;
        Some(AssetSource::Bucket(S3Settings {
            bucket,
            region: self.assets_region.clone(),
            access_key: self.assets_access_key.clone().unwrap_or_default(),
            secret_key: Secret::new(self.assets_secret_key.clone().unwrap_or_default()),
            url_prefix: None,
            endpoint: self.assets_endpoint.clone(),
        }))
    }
}
