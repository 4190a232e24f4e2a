//! Runs a server from its start until the process is told to stop.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::log::{EventLog as _, make_folder};
use skytrail_actors::spawn;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::{Application, StartError};
use crate::config::{Config, KeyOrigin, Secret, local_client_address};
use crate::http::server::Door;
use crate::record_store::{leaving, moved};

/// How long a server that has run before waits between attempts to start again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a server until the process is told to stop. If the record store turns out to be damaged,
/// the server stops and starts again in the same process; that start rebuilds the store.
///
/// It does not give up if its database is away just then.
///
/// # Errors
/// See [`StartError`].
pub async fn serve(config: &Config) -> Result<(), StartError> {
    if config.app.dev_mode {
        // Even if only this machine is served: a proxy may let others in.
        tracing::warn!(
            "DEV_MODE is on, which is the default: anyone with the client key can become an \
             administrator (role:admin, role:default), and change types and their default rights; \
             set DEV_MODE=NO before others reach this server"
        );
    }
    serve_with(config, |_| std::future::pending()).await
}

fn noted(source: io::Error) -> StartError {
    let what = "the note of the record store's move cannot be written or read".to_owned();
    StartError::Io { what, source }
}

/// Like [`serve`], with a future that runs during each run of the server, and ends with it.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with<F: Future<Output = ()>>(
    config: &Config,
    mut beside: impl FnMut(&Application) -> F,
) -> Result<(), StartError> {
    // A process that reads that the server is ready may tell it to stop at once.
    let mut signals = Signals::listen();
    spawn::last_here();
    for unknown in &config.unknown {
        tracing::warn!(%unknown, ".env has a name that is not a setting");
    }
    if let Some(value) = &config.timers.unread_zone {
        let zone = config.timers.zone.name();
        tracing::warn!(
            TZ = value,
            zone,
            "TZ names no time zone that is known, so timers run in {zone}: set TIMER_ZONE"
        );
    }
    let usable = config.check_data_dir();
    usable.map_err(StartError::io("the data folder cannot be used"))?;
    let unmade = format!(
        "the data folder {} cannot be created",
        config.data_dir.display()
    );
    make_folder(&config.data_dir).map_err(StartError::io(&unmade))?;
    let mut door = Door::default();
    let mut has_run = false;
    loop {
        let in_use = moved::with_moved_store(config).map_err(noted)?;
        let left_store = moved::with_store_that_is_left(config).map_err(noted)?;
        let starting = async {
            if let Some(left_store) = &left_store {
                leaving::leave(left_store, &in_use)
                    .await
                    .map_err(NotStarted::NotLeft)?;
            }
            let started = Application::start(&in_use, &mut door).await;
            started.map_err(NotStarted::Failed)
        };
        let started = tokio::select! {
            started = Box::pin(starting) => started,
            // What is interrupted is repeated by the next start, as after a crash.
            () = signals.wait() => return Ok(()),
        };
        let mut application = match started {
            Err(NotStarted::NotLeft(error)) => {
                tracing::error!(error, "the record store cannot be left yet");
                moved::give_up(config).map_err(noted)?;
                continue;
            }
            Err(NotStarted::Failed(error)) if moved::give_up(config).map_err(noted)? => {
                tracing::error!(%error, "the record store cannot be used where it was moved to");
                continue;
            }
            Err(NotStarted::Failed(error @ StartError::StoreAway(_))) if has_run => {
                tracing::error!(%error, "the server waits for its database");
                tokio::select! {
                    () = sleep(PAUSE) => continue,
                    () = signals.wait() => return Ok(()),
                }
            }
            Err(NotStarted::Failed(error)) => return Err(error),
            Ok(application) => application,
        };
        has_run = true;
        moved::confirm(config).map_err(noted)?;
        let log_head = application.core.log.head();
        tracing::info!(address = %application.address, log_head, "serving");
        announce(&application);
        let store = Arc::clone(&application.core.store);
        let running = beside(&application);
        let end = tokio::select! {
            () = signals.wait() => End::Told,
            () = running => End::Told,
            () = store.damaged() => End::StoreDamaged,
            () = moved::moved(config) => End::StoreMoved,
            error = application.unreachable() => End::Unreachable(error),
        };
        drop(store);
        if !matches!(end, End::StoreMoved) {
            door.close();
        }
        application.stop().await;
        match end {
            End::Told => return Ok(()),
            End::Unreachable(source) => {
                let what = "the HTTP server's threads have ended".to_owned();
                return Err(StartError::Io { what, source });
            }
            End::StoreDamaged | End::StoreMoved => {}
        }
        tracing::warn!("starting again; the record store catches up with the log");
    }
}

/// Why a server has not started.
enum NotStarted {
    /// The previous store could not be left.
    NotLeft(String),
    Failed(StartError),
}

/// Why a server stops. After a move, the restart is short, so clients that connect meanwhile wait;
/// rebuilding a damaged store may take minutes.
enum End {
    Told,
    StoreDamaged,
    StoreMoved,
    /// No client is answered any more.
    Unreachable(io::Error),
}

/// Prints what a person who starts the server needs to see, if anyone reads it.
fn announce(application: &Application) {
    let show = |key: &Secret, origin| match origin {
        KeyOrigin::Configured => "(from the configuration)".to_owned(),
        KeyOrigin::Kept => format!("{} (kept in the data folder)", key.reveal()),
        KeyOrigin::Made => format!("{} (just created, kept in the data folder)", key.reveal()),
    };
    let keys = &application.keys;
    let (client, master) = (
        show(&keys.api, keys.api_origin),
        show(&keys.master, keys.master_origin),
    );
    let address = local_client_address(application.address);
    let _ = write!(
        io::stdout(),
        "skytrail: client key {client}\nskytrail: master key {master}\n\
         skytrail: ready on http://{address}\n"
    );
}

/// SIGXFSZ.
const TOO_LARGE: i32 = rustix::process::Signal::XFSZ.as_raw();

/// The signals that tell the process to stop.
struct Signals(Option<(Signal, Signal)>);

impl Signals {
    /// From here on, the signals no longer kill the process. Neither does a file that reaches the
    /// limit of its size (`ulimit -f`): the write fails instead. Ignoring that signal would do, too,
    /// but plugins would inherit it.
    fn listen() -> Self {
        if let Err(error) = signal(SignalKind::from_raw(TOO_LARGE)) {
            tracing::warn!(%error, "a file that is too large ends the server (ulimit -f)");
        }
        let terminate = signal(SignalKind::terminate());
        let interrupt = signal(SignalKind::interrupt());
        Self(terminate.ok().zip(interrupt.ok()))
    }

    /// Waits for one of the signals.
    async fn wait(&mut self) {
        let Some((terminate, interrupt)) = &mut self.0 else {
            tracing::error!("cannot listen for signals");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to stop"),
            _ = interrupt.recv() => tracing::info!("interrupted"),
        }
    }
}
