//! `skytrail backup` and `skytrail restore`.

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use skytrail_actors::clock::{Clock as _, SystemClock};
use skytrail_actors::log::journal::JOURNAL_FOLDER;
use skytrail_actors::log::journal::archive::Until;
use skytrail_schema::time::Timestamp;

use super::remote::block_on;
use super::{check_user, complain, fail_with, journal_of, say, show};
use crate::backup::{
    self, BackupError, Local, Manifest, OpsStoreCopy, Plan, Repository, Stage, Taken, Wanted,
};
use crate::config::{ASSET_FOLDER, AssetStore, BackupPlace, Config};
use crate::ops_store::OPS_STORE_FILE;
use crate::scratch::Scratch;
use crate::{hex, ops_store};

/// Backs up the log, the ops store, keys and files; also while the server runs.
#[derive(Clone, Debug, Args)]
#[command(after_help = BACKUP_HELP)]
pub struct BackupCommand {
    /// A folder, or `s3://bucket/prefix`; defaults to `BACKUP_TARGET`.
    target: Option<String>,
    /// How many backups to keep, including this one; 0 for all (`BACKUP_KEEP`).
    #[arg(long)]
    keep: Option<usize>,
    /// Lists the existing backups instead.
    #[arg(long, conflicts_with_all = ["keep", "verify", "forget"])]
    list: bool,
    /// Reads a whole backup and checks it instead.
    #[arg(long, conflicts_with_all = ["keep", "forget"])]
    verify: bool,
    /// Also removes a backup of another history, and those before it: of the server that this one
    /// was restored from, of a copy, or of what was after a point that was returned to.
    #[arg(long, value_name = "BACKUP")]
    forget: Option<String>,
    /// The backup to check; defaults to the newest of the data folder's own log.
    #[arg(long, requires = "verify")]
    backup: Option<String>,
}

const BACKUP_HELP: &str = "\
A backup holds keys.json, so anyone who can read it has the master key. Files in a bucket
(ASSET_STORE=s3), access tokens and settings are not in it.

Examples:
  skytrail backup /mnt/backups                   copies only what is not there yet
  skytrail backup s3://bucket/chat --keep 30     with BACKUP_S3_ACCESS_KEY and _SECRET_KEY
  skytrail backup /mnt/backups --list
  skytrail backup /mnt/backups --verify
  skytrail backup /mnt/backups --forget 20240611T093000.000000Z";

/// Restores a backup into an empty folder, from which a server can then be started.
#[derive(Clone, Debug, Args)]
#[command(after_help = RESTORE_HELP)]
pub struct RestoreCommand {
    /// Where the backups are: a folder, or `s3://bucket/prefix`.
    target: String,
    /// The data folder to create; it must be empty if it exists.
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// The backup to restore; defaults to the newest.
    #[arg(long)]
    backup: Option<String>,
    /// The last position, or the last time, to restore; defaults to everything.
    #[arg(long, value_name = "POSITION|TIME")]
    until: Option<String>,
}

const RESTORE_HELP: &str = "\
Examples:
  skytrail restore /mnt/backups --to data
  skytrail restore /mnt/backups --to data --until 2024-06-11T09:30:00Z
  skytrail --data-dir data serve                 the server continues from there";

/// Runs `skytrail backup`.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: &BackupCommand) -> Result<(), String> {
    let place = match &command.target {
        Some(target) => parse_place(target)?,
        None => config.backups.place.clone().ok_or_else(|| {
            "name a folder or s3://bucket/prefix, or set BACKUP_TARGET".to_owned()
        })?,
    };
    if !command.list && !command.verify {
        journal_of(config)?;
        check_user(config)?;
        let apart = place.check_apart(&config.backups, &config.assets.store);
        apart.map_err(text)?;
    }
    let repository = open(config, &place)?;
    if command.list {
        return list(&repository);
    }
    if command.verify {
        let scratch = scratch()?;
        let local = Local::new(config);
        let name = command.backup.as_deref();
        let (manifest, unreadable) = choose(&repository, name, Some(&local))?;
        let place = scratch.path().join(JOURNAL_FOLDER);
        let num_lost = backup::verify(&repository, &manifest, &place).map_err(text)?;
        let what = if manifest.is_complete() {
            format!("backup {} is whole", manifest.name)
        } else {
            format!(
                "backup {} is incomplete; the rest is as it was saved",
                manifest.name
            )
        };
        say(&format!("{what}: {}", contents(&manifest)));
        say_lost(num_lost);
        missing_in(&manifest)?;
        let newer = unreadable.into_iter().find(|name| *name > manifest.name);
        return newer.map_or(Ok(()), |name| {
            Err(format!("{name}, which is newer, cannot be read"))
        });
    }
    // Removes the copy of the log that a killed check may have left.
    drop(scratch());
    let wanted = Wanted {
        now: SystemClock.now(),
        keep: command.keep.unwrap_or(config.backups.keep),
        forget: command.forget.as_deref(),
    };
    take(config, &repository, &wanted)
}

fn open(config: &Config, place: &BackupPlace) -> Result<Repository, String> {
    let repository = Repository::open(place, &config.backups).map_err(text)?;
    repository.check_format().map_err(text)?;
    Ok(repository)
}

/// Creates a folder for the check, and removes abandoned ones.
fn scratch() -> Result<Scratch, String> {
    let parent = std::env::temp_dir();
    let made = Scratch::make(&parent, "skytrail-verify-");
    made.map_err(|error| format!("{}: {error}", parent.display()))
}

/// Finds the requested backup. Reports others that cannot be read, and returns their names.
fn choose(
    repository: &Repository,
    backup: Option<&str>,
    local: Option<&Local>,
) -> Result<(Manifest, Vec<String>), String> {
    let mut unreadable = Vec::new();
    let mut skip = |name: &str, error: &BackupError| {
        complain(&error.to_string());
        unreadable.push(name.to_owned());
    };
    let manifest = backup::choose(repository, backup, local, &mut skip).map_err(text)?;
    Ok((manifest, unreadable))
}

fn take(config: &Config, repository: &Repository, wanted: &Wanted<'_>) -> Result<(), String> {
    let mut local = Local::new(config);
    let turn = local.take_turn().map_err(text)?;
    let copy = local.ops_store_copy();
    let original = config.data_dir.join(OPS_STORE_FILE);
    let copied = block_on(async { Ok::<_, String>(ops_store::copy_file(&original, &copy).await) })?;
    local.ops_store = match copied {
        Ok(true) => OpsStoreCopy::At(copy),
        Ok(false) => OpsStoreCopy::None,
        Err(error) => OpsStoreCopy::Failed(error.to_string()),
    };
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {bytes} copied, {bytes_per_sec}");
    bar.set_style(style.map_err(|error| error.to_string())?);
    let taken = backup::back_up(&local, turn, repository, wanted, &mut |progress| {
        bar.set_position(progress.bytes);
    });
    bar.finish_and_clear();
    report(&taken.map_err(text)?)
}

fn report(taken: &Taken) -> Result<(), String> {
    let Taken { manifest, .. } = taken;
    say(&format!("backup {}: {}", manifest.name, contents(manifest)));
    say(&format!(
        "copied {} segments and {} files, {}",
        taken.num_copied_segments,
        taken.num_copied_files,
        HumanBytes(taken.copied_bytes)
    ));
    if !taken.removed.is_empty() {
        say(&format!("removed {}", taken.removed.join(", ")));
    }
    if !taken.foreign.is_empty() {
        complain(&format!(
            "backups of another history of the log, which are not touched and keep what is erased \
             here: {}; if they are not needed, --forget removes one and those before it",
            taken.foreign.join(", ")
        ));
    }
    for note in &taken.notes {
        complain(note);
    }
    missing_in(manifest)
}

/// A backup with something missing is still a backup, but the command reports it as an error.
fn missing_in(manifest: &Manifest) -> Result<(), String> {
    let mut missing: Vec<String> = Vec::new();
    missing.extend(without_ops_store(manifest));
    missing.extend(without_keys(manifest));
    missing.extend(without_files(manifest));
    if !manifest.damage.is_empty() {
        missing.push("the log is damaged; the backup lacks this:".to_owned());
        let lines = manifest.damage.iter().map(|damage| format!("  {damage}"));
        missing.extend(lines);
    }
    fail_with(missing)
}

fn without_ops_store(manifest: &Manifest) -> Option<String> {
    let reason = manifest.missing_ledger.as_ref()?;
    Some(format!(
        "backup {} lacks ops.sqlite, which could not be copied: {reason}",
        manifest.name
    ))
}

fn without_keys(manifest: &Manifest) -> Option<String> {
    let reason = manifest.missing_keys.as_ref()?;
    let has = if manifest.keys.is_some() {
        "it is restored with those of the backup before it, which lack later users and still have \
         those erased since"
    } else {
        "the accounts in it cannot be read"
    };
    Some(format!(
        "backup {} lacks the current keys of subjects, which could not be saved: {reason}; {has}",
        manifest.name
    ))
}

fn without_files(manifest: &Manifest) -> Option<String> {
    let missing = manifest.missing_files.as_ref()?;
    let advice = if missing.is_other_folder {
        "; set ASSET_STORE and ASSET_STORE_PATH to where the server keeps them"
    } else {
        ""
    };
    Some(format!("backup {} lacks {missing}{advice}", manifest.name))
}

fn contents(manifest: &Manifest) -> String {
    let time = manifest.head_time.map(|time| format!(" ({time})"));
    let bucket = manifest.files_in_bucket.as_ref();
    let bucket = bucket.map(|bucket| format!(" (not those in the bucket {bucket})"));
    format!(
        "events up to {}{} in {} segments, {} files{}, chain {}",
        manifest.head,
        time.unwrap_or_default(),
        manifest.segments.len(),
        manifest.files_in_pieces().count(),
        bucket.unwrap_or_default(),
        hex::encode(&manifest.chain)
    )
}

fn list(repository: &Repository) -> Result<(), String> {
    let backups = repository.backups().map_err(text)?;
    if backups.is_empty() {
        return Err(format!("there are no backups at {}", repository.place()));
    }
    let (mut num_damaged, num_all) = (0, backups.len());
    for (name, manifest) in backups {
        match manifest {
            Ok(manifest) => {
                let is_damaged = !manifest.damage.is_empty();
                let damaged = if is_damaged { ", of a damaged log" } else { "" };
                let has_none = manifest.missing_ledger.is_some();
                let ops_store = if has_none { ", without ops.sqlite" } else { "" };
                let has_none = manifest.missing_keys.is_some();
                let keys = if has_none {
                    ", without the current keys"
                } else {
                    ""
                };
                let missing = manifest.missing_files.as_ref();
                let files = missing.map(|it| format!(", without {} files", it.count()));
                let files = files.unwrap_or_default();
                let follows = manifest.follows.as_deref();
                let follows = follows.map(|name| format!(", after {name}"));
                let follows = follows.unwrap_or_default();
                show(&format!(
                    "{name}  {}{follows}{damaged}{ops_store}{keys}{files}",
                    contents(&manifest)
                ));
            }
            Err(error) => {
                num_damaged += 1;
                show(&format!("{name}  {error}"));
            }
        }
    }
    if num_damaged > 0 {
        return Err(format!("{num_damaged} of {num_all} backups cannot be read"));
    }
    Ok(())
}

/// Runs `skytrail restore`.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn restore(config: &Config, command: &RestoreCommand) -> Result<(), String> {
    let place = parse_place(&command.target)?;
    let repository = open(config, &place)?;
    let plan = Plan {
        to: command.to.clone(),
        backup: choose(&repository, command.backup.as_deref(), None)?.0,
        until: parse_until(command.until.as_deref())?,
    };
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}, {eta} left");
    bar.set_style(style.map_err(|error| error.to_string())?);
    let restored = backup::restore(&repository, &plan, &mut |stage| {
        let (done, all, what) = match stage {
            Stage::Log { position, head } => (position, head, "events"),
            Stage::Files { done, all } => (done as u64, all as u64, "files"),
        };
        bar.set_length(all);
        bar.set_message(what);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let restored = restored.map_err(text)?;
    let time = restored.time.map(|time| format!(" ({time})"));
    say(&format!(
        "restored {} events{} and {} files from backup {}, with the chain hash {}; the next event \
         says so",
        restored.head,
        time.unwrap_or_default(),
        restored.num_files,
        restored.manifest.name,
        hex::encode(&restored.chain)
    ));
    if restored.num_erased_later > 0 {
        say(&format!(
            "{} events in it were erased later and stay erased; its last event says so",
            restored.num_erased_later
        ));
    }
    say_lost(restored.num_lost_records);
    if let Some(missing) = without_ops_store(&restored.manifest) {
        complain(&format!(
            "{missing}; plugins and consumers of the log start at the log's end"
        ));
    }
    for missing in [
        without_keys(&restored.manifest),
        without_files(&restored.manifest),
    ]
    .into_iter()
    .flatten()
    {
        complain(&missing);
    }
    if let Some(line) = misplaced(config, &command.to, restored.num_assets) {
        say(&line);
    }
    if let Some(line) = shared_bucket(config, &restored.manifest) {
        say(&line);
    }
    say(&format!(
        "start it with: skytrail --data-dir {} serve",
        command.to.display()
    ));
    Ok(())
}

/// Reports how many records a restored log lacks because nothing is known about them.
fn say_lost(num_records: u64) {
    if num_records > 0 {
        say(&format!(
            "{num_records} records that existed then are lost: their versions were erased since, \
             or removed by retention (compaction)"
        ));
    }
}

/// Returns where restored files belong, if a server with this configuration does not look for them
/// in the restored data folder.
fn misplaced(config: &Config, to: &Path, num_files: usize) -> Option<String> {
    let put = to.join(ASSET_FOLDER);
    let place = match &config.assets.store {
        _ if num_files == 0 => return None,
        AssetStore::Folder { is_default, .. } if *is_default => return None,
        AssetStore::Folder { path, .. } => {
            let absolute = |path: &Path| std::path::absolute(path).ok();
            if absolute(path) == absolute(&put) {
                return None;
            }
            format!("ASSET_STORE_PATH is {}: move them there", path.display())
        }
        AssetStore::S3(s3) => format!(
            "ASSET_STORE is the bucket {}: copy what it lacks into it",
            s3.bucket
        ),
    };
    let put = put.display();
    Some(format!(
        "{num_files} files are in {put}, where the server does not look; {place}"
    ))
}

/// Returns a warning if the files are in a bucket that the original server uses, too.
fn shared_bucket(config: &Config, manifest: &Manifest) -> Option<String> {
    let configured = match &config.assets.store {
        AssetStore::S3(s3) => Some(&s3.bucket),
        AssetStore::Folder { .. } => None,
    };
    match (&manifest.files_in_bucket, configured) {
        (Some(saved), Some(configured)) if saved != configured => Some(format!(
            "the files were in the bucket {saved}, and ASSET_STORE is the bucket {configured}: \
             copy what it lacks into it"
        )),
        (saved, configured) => configured.or(saved.as_ref()).map(|bucket| {
            format!(
                "the files are in the bucket {bucket}: what is erased or compacted here is removed \
                 there, also for the original server. If that one keeps running, copy the bucket \
                 before the start, and name the copy with ASSET_STORE_BUCKET"
            )
        }),
    }
}

fn parse_place(text: &str) -> Result<BackupPlace, String> {
    BackupPlace::parse(text)
        .ok_or_else(|| format!("{text:?}: expected a folder or s3://bucket/prefix"))
}

/// Parses where a log is to end.
pub(super) fn parse_until(text: Option<&str>) -> Result<Until, String> {
    let Some(text) = text else {
        return Ok(Until::End);
    };
    if let Ok(position) = text.parse() {
        return Ok(Until::Position(position));
    }
    let time = Timestamp::parse(text).map(Until::Time);
    time.ok_or_else(|| {
        format!("{text:?} is neither a position nor a time such as 2024-06-11T09:30:00Z")
    })
}

fn text(error: BackupError) -> String {
    error.to_string()
}
