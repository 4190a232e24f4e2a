//! The backups that a running server takes by itself, one per `BACKUP_PERIOD`.
//!
//! The repository says when the last one of this log was taken and what it lacks, so a restart
//! neither skips nor repeats one, and ends no alarm. A
//! backup runs on a separate thread, which a shutdown does not wait for: it leaves what a crash
//! would leave.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use skytrail_actors::clock::{Clock, is_ahead, wait_since};
use skytrail_schema::time::Timestamp;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::history::History;
use super::{
    BackupError, Local, Manifest, MissingFiles, OpsStoreCopy, Repository, Taken, Wanted, back_up,
};
use crate::config::{AssetStore, BackupPlace, Backups, Config};
use crate::ops_store::OpsStore;
use crate::proof::Checkpoints;

/// The pause before a retry after a failure; the period is used if it is shorter.
const RETRY: Duration = Duration::from_secs(300);

/// How often the server looks whether backups of other histories are still there. Another process
/// removes them.
const LOOK: Duration = Duration::from_secs(15);

/// What this server knows about its backups.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BackupState {
    /// Whether backups are scheduled.
    pub is_scheduled: bool,
    /// The number of backups taken since the start.
    pub num_made: u64,
    /// The number of attempts that failed since the start.
    pub num_failed: u64,
    /// The number of bytes copied since the start.
    pub copied_bytes: u64,
    /// The time of the newest known backup; `None` if that time has not come yet, because the clock
    /// was set back.
    pub last_time: Option<Timestamp>,
    /// The last position in that backup.
    pub last_head: u64,
    /// The damage in the log when it was taken.
    pub damage: Vec<String>,
    /// Why the ops store is not in it, if it is missing.
    pub missing_ledger: Option<String>,
    /// Why the current subjects' keys are not in it, if they are missing.
    pub missing_keys: Option<String>,
    /// The number of files that the log knows but that were missing.
    pub missing_files: u64,
    /// The backups of other histories in the same place. They are left alone, and what is erased
    /// here stays in them.
    pub foreign: Vec<String>,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
}

/// See the module's overview.
pub struct BackupSchedule {
    local: Local,
    settings: Backups,
    files: AssetStore,
    ops_store: Arc<OpsStore>,
    checkpoints: Arc<Checkpoints>,
    clock: Arc<dyn Clock>,
    state: Mutex<BackupState>,
}

impl BackupSchedule {
    /// Takes the settings. Without `BACKUP_TARGET` and `BACKUP_PERIOD`, no backups are taken.
    pub fn new(
        config: &Config,
        ops_store: Arc<OpsStore>,
        checkpoints: Arc<Checkpoints>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let settings = config.backups.clone();
        let is_scheduled = settings.place.is_some() && settings.period.is_some();
        Self {
            local: Local::new(config),
            settings,
            files: config.assets.store.clone(),
            ops_store,
            checkpoints,
            clock,
            state: Mutex::new(BackupState {
                is_scheduled,
                ..BackupState::default()
            }),
        }
    }

    /// Returns the state. A time that the clock has not reached yet cannot be when the last backup
    /// was made, so it is not shown.
    pub fn state(&self) -> BackupState {
        let mut state = self.state.lock().clone();
        let now = self.clock.now();
        state.last_time = state.last_time.filter(|last| !is_ahead(*last, now));
        state
    }

    /// Takes backups until the server stops.
    pub async fn run(self: Arc<Self>, ending: CancellationToken) {
        let (Some(place), Some(period)) = (self.settings.place.clone(), self.settings.period)
        else {
            return;
        };
        let found = self.find_last(&place).await;
        let mut last = found.map(|known| self.found(&known));
        loop {
            let pause = async {
                match &last {
                    Ok(last) => self.wait_until_due(*last, period).await,
                    Err(error) => tokio::time::sleep(self.failed(error, period)).await,
                }
            };
            tokio::select! {
                () = ending.cancelled() => return,
                () = self.watch_foreign(&place) => {}
                () = pause => {}
            }
            last = self.make(&place).await.map(|taken| self.made(&taken));
        }
    }

    /// Waits until the next backup is due. If the clock was set back since the last one, it is due
    /// now: otherwise there would be none until the clock has caught up.
    async fn wait_until_due(&self, last: Option<Timestamp>, period: Duration) {
        let Some(last) = last else {
            return;
        };
        if !wait_since(&*self.clock, last, period).await {
            tracing::warn!(
                %last,
                "the clock was set back, or was wrong when the last backup was made: a backup is \
                 made now"
            );
        }
    }

    /// Notes it when backups of other histories are gone.
    async fn watch_foreign(&self, place: &BackupPlace) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.state.lock().foreign.is_empty() {
                continue;
            }
            let (place, settings) = (place.clone(), self.settings.clone());
            let names = on_thread(move || Repository::open(&place, &settings)?.names());
            // The next backup reports that the place cannot be reached.
            if let Ok(names) = names.await {
                let mut state = self.state.lock();
                state.foreign.retain(|name| names.contains(name));
            }
        }
    }

    async fn find_last(&self, place: &BackupPlace) -> Result<Known, BackupError> {
        let (place, settings) = (place.clone(), self.settings.clone());
        let local = self.local.clone();
        let found = on_thread(move || {
            let catalog = Repository::open(&place, &settings)?.catalog()?;
            let survey = local.survey()?;
            let history = History::of(&survey, &catalog)?;
            let own = history.own(&catalog)?;
            let is_foreign = |backup: &&Manifest| {
                history.beginning.is_some() && own.iter().all(|it| it.name != backup.name)
            };
            let foreign = catalog.readable().filter(is_foreign);
            // If the last backup is unreadable, that is a reason to take another.
            let is_readable = catalog.backups.last().is_none_or(|(_, last)| last.is_ok());
            let last = own.last().filter(|_| is_readable);
            Ok(Known {
                last: last.map(|last| (*last).clone()),
                foreign: foreign.map(|backup| backup.name.clone()).collect(),
            })
        });
        found.await
    }

    /// Notes what the repository had at the start; returns when the last backup was made.
    fn found(&self, known: &Known) -> Option<Timestamp> {
        let mut state = self.state.lock();
        state.note_foreign(&known.foreign);
        let last = known.last.as_ref()?;
        state.note(last);
        Some(last.clock())
    }

    async fn make(&self, place: &BackupPlace) -> Result<Taken, BackupError> {
        place.check_apart(&self.settings, &self.files)?;
        let mut local = self.local.clone();
        let turn = local.take_turn()?;
        let copy = local.ops_store_copy();
        local.ops_store = match self.ops_store.copy_to(&copy).await {
            Ok(()) => OpsStoreCopy::At(copy),
            Err(error) => OpsStoreCopy::Failed(error.to_string()),
        };
        self.checkpoints.sign().await;
        let (place, settings) = (place.clone(), self.settings.clone());
        let (now, keep) = (self.clock.now(), self.settings.keep);
        let made = on_thread(move || {
            let repository = Repository::open(&place, &settings)?;
            let wanted = Wanted {
                now,
                keep,
                forget: None,
            };
            back_up(&local, turn, &repository, &wanted, &mut |_| {})
        });
        made.await
    }

    /// Notes that a backup was made; returns when.
    fn made(&self, taken: &Taken) -> Option<Timestamp> {
        let manifest = &taken.manifest;
        for note in &taken.notes {
            tracing::warn!(note, "backup");
        }
        for damage in &manifest.damage {
            tracing::error!(%damage, "the log is damaged; the backup lacks this");
        }
        if let Some(reason) = &manifest.missing_ledger {
            tracing::error!(reason, "the backup lacks ops.sqlite");
        }
        if let Some(reason) = &manifest.missing_keys {
            tracing::error!(
                reason,
                "the backup lacks the current keys of subjects, subjects.keys"
            );
        }
        if let Some(missing) = &manifest.missing_files {
            tracing::error!(%missing, "the backup lacks files");
        }
        let (copied_bytes, head) = (taken.copied_bytes, manifest.head);
        tracing::info!(
            name = manifest.name,
            head,
            copied_bytes,
            "a backup was made"
        );
        let mut state = self.state.lock();
        state.num_made += 1;
        state.copied_bytes += copied_bytes;
        state.note(manifest);
        state.note_foreign(&taken.foreign);
        state.last_error = None;
        state.last_time
    }

    fn failed(&self, error: &BackupError, period: Duration) -> Duration {
        tracing::error!(%error, "no backup was made");
        let mut state = self.state.lock();
        state.num_failed += 1;
        state.last_error = Some(error.to_string());
        RETRY.min(period)
    }
}

/// What a repository has when the server starts.
struct Known {
    /// The last backup of this log.
    last: Option<Manifest>,
    foreign: Vec<String>,
}

impl BackupState {
    fn note(&mut self, last: &Manifest) {
        self.last_time = Some(last.clock());
        self.last_head = last.head;
        self.damage = last.damage.iter().map(ToString::to_string).collect();
        self.missing_ledger = last.missing_ledger.clone();
        self.missing_keys = last.missing_keys.clone();
        let missing = last.missing_files.as_ref();
        self.missing_files = missing.map_or(0, MissingFiles::count);
    }

    /// Notes the backups of other histories, and reports them if they were not known.
    fn note_foreign(&mut self, foreign: &[String]) {
        if foreign.iter().any(|name| !self.foreign.contains(name)) {
            let names = foreign.join(", ");
            tracing::warn!(
                names,
                "there are backups of another history of the log, which are not touched and keep \
                 what is erased here; if they are not needed, `skytrail backup --forget` drops them"
            );
        }
        self.foreign = foreign.to_vec();
    }
}

/// Runs long blocking work on a thread that nobody joins.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let (sender, done) = oneshot::channel();
    std::thread::Builder::new()
        .name("backup".to_owned())
        .spawn(move || {
            // At a shutdown, nobody waits for the result any more.
            let _ = sender.send(work());
        })
        .map_err(BackupError::io("a thread for the backup"))?;
    let gone = || BackupError::Refused("the backup was interrupted".to_owned());
    done.await.map_err(|_| gone())?
}
