//! Plays a plugin's worker towards the connection's actor.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::Addr;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use skytrail_actors::plugin::messages::{FromTransport, TransportEvent};
use skytrail_actors::plugin::protocol::{
    CallMessage, Hello, Outcome, ResponseMessage, WorkerFrame, WorkerMessage,
};
use skytrail_actors::plugin::transport::{Outgoing, channel};
use skytrail_actors::plugin::{ApiCaller, PluginBroker, PluginConnection, TransportKind};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::transport::{Answer, Envelope, Transport, failure, unreached};

/// What a session reports to its supervisor.
#[derive(Debug)]
pub(super) enum Event {
    /// The registration was accepted.
    Registered,
    /// The registered plugin can no longer be reached.
    Away,
    /// The plugin answered after it had been unreachable.
    Back,
    /// The session is over.
    Closed,
}

/// The parts of a session.
pub(super) struct Parts {
    pub(super) plugin: Arc<str>,
    pub(super) generation: u64,
    pub(super) transport: Arc<dyn Transport>,
    /// Whether the plugin has received `before-config` since it last registered: it gets that once,
    /// however often `init` is retried.
    pub(super) greeted: Arc<AtomicBool>,
    /// Why the plugin was unreachable the last time, if it was: the same reason is not logged as a
    /// warning again.
    pub(super) absence: Arc<Mutex<Option<String>>>,
    pub(super) events: mpsc::Sender<Event>,
    /// Notified together with [`Event::Back`], for a supervisor that already follows another
    /// session.
    pub(super) back: Arc<Notify>,
}

/// Connects a plugin to an actor of its own, and runs until either is gone.
pub(super) async fn run(
    parts: Parts,
    broker: PluginBroker,
    api: Arc<dyn ApiCaller>,
    mut calls: mpsc::Receiver<CallMessage>,
) {
    let (sender, mut outgoing) = channel(parts.transport.kind());
    let mut session = Session {
        actor: broker.connect(sender, api),
        seq: 0,
        heard: None,
        running: HashMap::new(),
        is_registered: false,
        is_away: false,
        is_reachable: true,
        parts,
    };
    session
        .say(WorkerMessage::Hello(Box::new(session.hello())))
        .await;
    let mut answers = FuturesUnordered::new();
    let mut crew = session.parts.transport.crew();
    if let Some(crew) = &mut crew {
        crew.mark_changed();
    }
    loop {
        tokio::select! {
            message = outgoing.next() => match message {
                Some(Outgoing::Text(text)) => {
                    if let Some(envelope) = session.take(&text).await {
                        answers.push(session.begin(envelope));
                    }
                }
                Some(Outgoing::Close { code, reason }) => {
                    let plugin = &session.parts.plugin;
                    tracing::debug!(%plugin, code, reason, "session closed");
                    break;
                }
                None => break,
            },
            Some((envelope, answer)) = answers.next() => session.answer(envelope, answer).await,
            Some(call) = calls.recv() => session.say(WorkerMessage::Call(call)).await,
            size = next_size(&mut crew) => {
                let message = FromTransport(TransportEvent::Crew(size));
                let _ = session.actor.send(message).await;
            }
        }
    }
    let goodbye = FromTransport(TransportEvent::Goodbye);
    // The actor may already be gone; then it knows.
    let _ = session.actor.send(goodbye).await;
    session.tell(Event::Closed).await;
}

struct Session {
    parts: Parts,
    actor: Addr<PluginConnection>,
    /// The last number assigned.
    seq: u64,
    /// The highest number received.
    heard: Option<u64>,
    /// The requests in progress, with what stops them.
    running: HashMap<String, oneshot::Sender<()>>,
    is_registered: bool,
    /// Whether the plugin was unreachable the last time.
    is_away: bool,
    /// Whether the plugin can be reached, as the actor was last told.
    is_reachable: bool,
}

/// The members that are read of messages to a worker.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind_of_message: String,
    seq: Option<u64>,
    #[serde(default)]
    id: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    param: Option<Box<RawValue>>,
    context: Option<Box<RawValue>>,
    parent: Option<String>,
    #[serde(default)]
    depth: u32,
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    status: u16,
    body: Option<Box<RawValue>>,
}

impl Session {
    fn hello(&self) -> Hello {
        let transport = &self.parts.transport;
        Hello {
            plugin: self.parts.plugin.to_string(),
            worker: format!("{:?}", transport.kind()).to_lowercase(),
            generation: self.parts.generation,
            window: Some(transport.window()),
            max_message: None,
            sdk: String::new(),
            features: Vec::new(),
            resume: None,
            from: None,
        }
    }

    /// Handles a message from the actor; returns the request if it is one.
    async fn take(&mut self, text: &str) -> Option<Envelope> {
        let message: Message = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(plugin = %self.parts.plugin, %error, "unreadable message");
                return None;
            }
        };
        self.heard = message.seq.or(self.heard);
        match message.kind_of_message.as_str() {
            "request" => {
                return Some(Envelope {
                    id: message.id,
                    parent: message.parent,
                    depth: message.depth,
                    kind: message.kind,
                    name: message.name,
                    param: message.param,
                    context: message.context,
                });
            }
            // Dropping the sender wakes whoever waits for the stop.
            "cancel" => drop(self.running.remove(&message.id)),
            "ping" => self.say(WorkerMessage::Pong).await,
            "registered" => self.note_registration(message.ok).await,
            "reply" => {
                if let Some(body) = &message.body {
                    let transport = &self.parts.transport;
                    transport.reply(&message.id, message.status, body);
                }
            }
            _ => {}
        }
        None
    }

    /// Records that the registration was accepted. The actors log why one is refused.
    async fn note_registration(&mut self, is_taken: bool) {
        if is_taken {
            self.is_registered = true;
            self.parts.greeted.store(false, Ordering::Relaxed);
            self.tell(Event::Registered).await;
        }
    }

    /// Returns the work on a request, which ends when the request is cancelled.
    fn begin(&mut self, envelope: Envelope) -> impl Future<Output = (Envelope, Answer)> + use<> {
        let (stop, stopped) = oneshot::channel::<()>();
        self.running.insert(envelope.id.clone(), stop);
        let is_repeated = is_greeting(&envelope) && self.parts.greeted.load(Ordering::Relaxed);
        let transport = Arc::clone(&self.parts.transport);
        async move {
            if is_repeated {
                return (envelope, Answer::Given(Outcome::Result(Json::Null)));
            }
            let answering = transport.request(&envelope);
            let answer = tokio::select! {
                answer = answering => answer,
                _ = stopped => Answer::Cancelled,
            };
            (envelope, answer)
        }
        .boxed()
    }

    async fn answer(&mut self, envelope: Envelope, answer: Answer) {
        self.running.remove(&envelope.id);
        let outcome = match answer {
            Answer::Given(outcome) => {
                *self.parts.absence.lock() = None;
                // A program that cannot be run is noticed here, and nowhere else.
                let is_run = !matches!(outcome, Outcome::Unreached(_));
                let is_program = self.parts.transport.kind() == TransportKind::Exec;
                self.note_reach(is_run || !is_program).await;
                if is_greeting(&envelope) {
                    self.parts.greeted.store(true, Ordering::Relaxed);
                }
                if std::mem::take(&mut self.is_away) && self.is_registered {
                    self.parts.back.notify_one();
                    self.tell(Event::Back).await;
                }
                outcome
            }
            Answer::Cancelled => failure("cancelled"),
            Answer::Lost { why, is_gone } => {
                self.note_failure(&envelope, &why, is_gone).await;
                failure(&why)
            }
            Answer::NotThere(why) => {
                self.note_failure(&envelope, &why, true).await;
                unreached(&why)
            }
        };
        let id = envelope.id;
        let response = ResponseMessage { id, outcome };
        self.say(WorkerMessage::Response(response)).await;
    }

    /// Handles an unanswered request. Only a plugin that is gone must be initialised again: any
    /// client can make a handler fail.
    async fn note_failure(&mut self, envelope: &Envelope, why: &str, is_gone: bool) {
        let (plugin, name) = (&self.parts.plugin, &envelope.name);
        if !is_gone {
            tracing::warn!(%plugin, name, why, "the plugin gave no answer");
            return;
        }
        let before = self.parts.absence.lock().replace(why.to_owned());
        // A plugin that does not register is tried again: the supervisor logs when.
        if before.as_deref() == Some(why) || !self.is_registered {
            tracing::debug!(%plugin, name, why, "the plugin did not get a request");
        } else {
            tracing::warn!(%plugin, name, why, "the plugin cannot be reached");
        }
        self.note_reach(false).await;
        if !std::mem::replace(&mut self.is_away, true) && self.is_registered {
            self.tell(Event::Away).await;
        }
    }

    /// Tells the actor whether the plugin can be reached, when that has changed.
    async fn note_reach(&mut self, is_reachable: bool) {
        if std::mem::replace(&mut self.is_reachable, is_reachable) != is_reachable {
            let event = TransportEvent::Reachable(is_reachable);
            let _ = self.actor.send(FromTransport(event)).await;
        }
    }

    /// Sends a message to the actor, as if it had arrived over a socket.
    async fn say(&mut self, message: WorkerMessage) {
        let has_seq = !matches!(message, WorkerMessage::Hello(_) | WorkerMessage::Pong);
        self.seq += u64::from(has_seq);
        let frame = WorkerFrame {
            seq: has_seq.then_some(self.seq),
            ack: self.heard,
            size: 0,
            message,
        };
        let event = TransportEvent::Frame(Ok(frame));
        // An actor that is gone has closed its end.
        let _ = self.actor.send(FromTransport(event)).await;
    }

    async fn tell(&self, event: Event) {
        // The supervisor may already follow another session.
        let _ = self.parts.events.send(event).await;
    }
}

/// Waits until the number of workers has changed; returns it.
async fn next_size(crew: &mut Option<watch::Receiver<usize>>) -> usize {
    if let Some(crew) = crew
        && crew.changed().await.is_ok()
    {
        return *crew.borrow_and_update();
    }
    pending().await
}

fn is_greeting(envelope: &Envelope) -> bool {
    envelope.kind == "event" && envelope.name == "before-config"
}
