//! Starts a plugin's sessions, one after the other.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use serde_json::value::to_raw_value;
use skytrail_actors::plugin::protocol::CallMessage;
use skytrail_actors::plugin::{ApiCaller, PluginBroker, TransportKind};
use skytrail_schema::code::ApiError;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::session::{self, Event, Parts};
use super::transport::{Notice, Transport};

/// The pause before the next session, which grows while the plugin does not register.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How many of the plugin's calls can wait for the session.
const MAX_CALLS: usize = 1024;

/// How a session ended.
enum End {
    /// The plugin is away; only another session can tell when it is back.
    Away,
    /// The plugin is back after an absence.
    Back,
    /// It did not register, or was closed.
    Lost,
    /// The server is stopping.
    Leaving,
}

/// Keeps a plugin connected until the server stops.
pub(super) async fn run(
    plugin: Arc<str>,
    transport: Arc<dyn Transport>,
    broker: PluginBroker,
    api: Arc<dyn ApiCaller>,
) {
    let (greeted, absence) = (Arc::default(), Arc::default());
    let back = Arc::new(Notify::new());
    let mut pause = FIRST_PAUSE;
    for generation in 0.. {
        let (events, heard) = mpsc::channel(8);
        let (calls, received) = mpsc::channel(MAX_CALLS);
        let parts = Parts {
            plugin: Arc::clone(&plugin),
            generation,
            transport: Arc::clone(&transport),
            greeted: Arc::clone(&greeted),
            absence: Arc::clone(&absence),
            events,
            back: Arc::clone(&back),
        };
        let begun = Instant::now();
        // It continues next to its successor, with the requests that it still has.
        actix::spawn(session::run(
            parts,
            broker.clone(),
            Arc::clone(&api),
            received,
        ));
        match follow(heard, &calls, &*transport, (&broker, &mut pause)).await {
            // The old registration counts until the plugin has registered again, even if its points
            // only fail. The pause keeps a plugin that comes and goes from being initialised all
            // the time.
            End::Away => sleep_until(begun + pause).await,
            End::Back => {
                tracing::info!(%plugin, "the plugin is back and is being initialised again")
            }
            End::Lost => {
                // The pause ends early when workers arrive after there were none, or when the
                // previous session gets an answer.
                let returned = async {
                    tokio::select! {
                        () = come_back(&*transport) => {}
                        () = back.notified() => {}
                    }
                };
                let _ = timeout(pause, returned).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            End::Leaving => return,
        }
    }
}

/// Follows a session until another one must start.
async fn follow(
    mut heard: mpsc::Receiver<Event>,
    calls: &mpsc::Sender<CallMessage>,
    transport: &dyn Transport,
    (broker, pause): (&PluginBroker, &mut Duration),
) -> End {
    // The session asks workers that arrive while it registers. Only if it fails all the same,
    // another one starts at once.
    let (mut is_registered, mut are_news) = (false, false);
    loop {
        tokio::select! {
            event = heard.recv() => match event {
                Some(Event::Registered) => {
                    is_registered = true;
                    *pause = FIRST_PAUSE;
                }
                Some(Event::Away) if transport.kind() == TransportKind::Http => return End::Away,
                // Over other transports the plugin speaks first, or there is nothing that could be
                // away.
                Some(Event::Away) => {}
                Some(Event::Back) => return End::Back,
                Some(Event::Closed) | None if broker.is_leaving() => return End::Leaving,
                Some(Event::Closed) | None if are_news && !is_registered => return End::Back,
                Some(Event::Closed) | None => return End::Lost,
            },
            notice = transport.notice() => match notice {
                Notice::Back if is_registered => return End::Back,
                Notice::Back => are_news = true,
                Notice::Call(call) => pass_on(call, calls, transport),
            },
        }
    }
}

/// Waits until the plugin is back. Its calls are refused meanwhile.
async fn come_back(transport: &dyn Transport) {
    loop {
        match transport.notice().await {
            Notice::Back => return,
            Notice::Call(call) => refuse(&call, transport, "the plugin is not initialised"),
        }
    }
}

/// Passes the plugin's call to the session, or refuses it when too many are waiting.
fn pass_on(call: CallMessage, calls: &mpsc::Sender<CallMessage>, transport: &dyn Transport) {
    if let Err(refused) = calls.try_send(call) {
        refuse(&refused.into_inner(), transport, "too many calls at once");
    }
}

fn refuse(call: &CallMessage, transport: &dyn Transport, message: &str) {
    let error = ApiError::unexpected(message).to_wire();
    if let Ok(body) = to_raw_value(&json!({"error": error})) {
        transport.reply(&call.id, 429, &body);
    }
}
