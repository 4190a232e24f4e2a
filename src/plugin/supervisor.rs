//! Starts a plugin's sessions, one after the other.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use serde_json::json;
use serde_json::value::to_raw_value;
use skytrail_actors::plugin::protocol::CallMessage;
use skytrail_actors::plugin::{ApiCaller, FIRST_PAUSE, PluginBroker, TransportKind};
use skytrail_schema::code::ApiError;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::session::{self, Event, Parts};
use super::transport::{Notice, Transport};

/// How many of the plugin's calls can wait for the session.
const MAX_CALLS: usize = 1024;

/// How a session ended.
enum End {
    /// The plugin is away; only another session can tell when it is back.
    Away,
    /// The plugin is back after an absence.
    Back,
    /// Somebody wants it to be initialised anew.
    Asked,
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
    let (greeted, absence): (_, Arc<Mutex<Option<String>>>) = (Arc::default(), Arc::default());
    let (back, wishes) = (Arc::new(Notify::new()), broker.wishes(&plugin));
    let (longest, mut pause) = (broker.settings().longest_pause(), FIRST_PAUSE);
    let mut num_missed = 0_u64;
    for generation in 0.. {
        // What was wished for before begins now.
        let _ = wishes.notified().now_or_never();
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
        let watched = (&broker, &*wishes, &mut pause);
        let end = follow(heard, &calls, &*transport, watched).await;
        let why = absence.lock().clone();
        num_missed = why.as_ref().map_or(0, |_| num_missed + 1);
        match end {
            // The old registration counts until the plugin has registered again, even if its points
            // only fail. The pause keeps a plugin that comes and goes from being initialised all
            // the time.
            End::Away => sleep_until(begun + pause).await,
            End::Back => {
                tracing::info!(%plugin, "the plugin is back and is being initialised again")
            }
            End::Asked => tracing::info!(%plugin, "the plugin is being initialised anew"),
            End::Lost => {
                // Once the pause grows no more, ever more rarely.
                if let Some(why) = why
                    && (pause < longest || num_missed.is_power_of_two())
                {
                    let next_try_s = pause.as_secs();
                    tracing::warn!(%plugin, why, next_try_s, "the plugin cannot be reached");
                }
                // The pause ends early when workers arrive after there were none, when the previous
                // session gets an answer, or on request.
                let returned = async {
                    tokio::select! {
                        () = come_back(&*transport) => {}
                        () = back.notified() => {}
                        () = wishes.notified() => {}
                    }
                };
                let _ = timeout(pause, returned).await;
                pause = (pause * 2).min(longest);
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
    (broker, wishes, pause): (&PluginBroker, &Notify, &mut Duration),
) -> End {
    // The session asks workers that arrive while it registers. Only if it fails all the same,
    // another one starts at once.
    let (mut is_registered, mut are_news, mut is_asked) = (false, false, false);
    loop {
        tokio::select! {
            event = heard.recv() => match event {
                Some(Event::Registered) => {
                    is_registered = true;
                    *pause = FIRST_PAUSE;
                    if is_asked {
                        return End::Asked;
                    }
                }
                Some(Event::Away) if transport.kind() == TransportKind::Http => return End::Away,
                // Over other transports the plugin speaks first, or there is nothing that could be
                // away.
                Some(Event::Away) => {}
                Some(Event::Back) => return End::Back,
                Some(Event::Closed) | None if broker.is_leaving() => return End::Leaving,
                Some(Event::Closed) | None if are_news && !is_registered => return End::Back,
                Some(Event::Closed) | None if is_asked => return End::Asked,
                Some(Event::Closed) | None => return End::Lost,
            },
            // The plugin may have changed since the session asked it.
            () = wishes.notified() => {
                if is_registered {
                    return End::Asked;
                }
                is_asked = true;
            }
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
