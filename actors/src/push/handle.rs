//! What the rest of the server knows of push.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, ArbiterHandle};
use futures_util::future::join_all;
use serde_json::{Map, Value as Json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{DeviceKind, DeviceState};
use skytrail_schema::id::{DeviceId, UserId};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::notice::{self, NoticePush};
use super::outbox::{Outbox, Waiting};
use super::queue::{Enqueue, GetPushState, Leave, NoteDropped, PushQueue};
use super::queued::QueuedPush;
use super::resume;
use super::room::Room;
use super::schedule::Bounds;
use super::sender::{Address, Payload, PushSender};
use super::state::PushState;
use crate::clock::Clock;
use crate::device::directory::DeviceDirectory;
use crate::spawn::run_to_completion;

/// How many pushes to a service are in flight at once.
const MAX_IN_FLIGHT: usize = 64;
/// A push that could not be sent for this long is given up.
pub(super) const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// How long a queue, which never waits for anything, can take to accept pushes.
pub(super) const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

/// How much is sent and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushSettings {
    /// How many pushes can wait for one service.
    pub max_queue: usize,
    /// After this many attempts a push is given up.
    pub max_attempts: u32,
}

/// Sends pushes. Clones share everything.
#[derive(Clone)]
pub struct Push(Arc<Inner>);

/// What pushes are sent with.
pub struct PushParts {
    /// The services.
    pub senders: Vec<Arc<dyn PushSender>>,
    /// The service that knows the devices.
    pub devices: Arc<dyn DeviceDirectory>,
    /// Where pushes are kept until they are sent.
    pub outbox: Arc<dyn Outbox>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How much is sent and kept.
    pub settings: PushSettings,
}

struct Inner {
    services: HashMap<DeviceKind, Service>,
    devices: Arc<dyn DeviceDirectory>,
    outbox: Arc<dyn Outbox>,
    clock: Arc<dyn Clock>,
    notices: NoticePush,
    ending: CancellationToken,
}

pub(super) struct Service {
    pub(super) sender: Arc<dyn PushSender>,
    pub(super) queue: Addr<PushQueue>,
    pub(super) room: Room,
}

impl Service {
    /// Puts pushes into the queue; `false` if it does not accept them in time.
    pub(super) async fn take(&self, pushes: Vec<QueuedPush>) -> bool {
        let taken = timeout(QUEUE_TIMEOUT, self.queue.send(Enqueue(pushes))).await;
        matches!(taken, Ok(Ok(())))
    }
}

/// A notification, as each service gets it.
#[derive(Clone, Debug, Default)]
pub struct PushPayloads(HashMap<DeviceKind, Arc<Payload>>);

impl PushPayloads {
    /// Whether it has something for devices of a type.
    pub(super) fn reaches(&self, kind: DeviceKind) -> bool {
        self.0.contains_key(&kind)
    }
}

/// A device that gets something.
pub(super) type Recipient = (DeviceId, DeviceState);

/// The pushes for a service.
type ForService = (DeviceKind, Vec<QueuedPush>);

/// A device, its user, and where it can be reached.
type Addressed = (DeviceId, Option<UserId>, Address);

impl Push {
    /// Starts a queue for each service; `waiting` is what the outbox has kept from before.
    pub fn start(parts: PushParts, waiting: Vec<Waiting>, arbiter: &ArbiterHandle) -> Self {
        let PushParts {
            senders,
            devices,
            outbox,
            clock,
            settings,
        } = parts;
        let bounds = Bounds {
            at_once: MAX_IN_FLIGHT,
            max_attempts: settings.max_attempts,
            max_age: MAX_AGE,
        };
        let has_service = |kind| senders.iter().any(|it| it.kind() == kind);
        let mut resumed = resume::sort(waiting, has_service, &outbox);
        let service = |sender: Arc<dyn PushSender>| {
            let room = Room::new(settings.max_queue);
            let (devices, outbox) = (Arc::clone(&devices), Arc::clone(&outbox));
            let mut queue = PushQueue::new(
                Arc::clone(&sender),
                devices,
                outbox,
                Arc::clone(&clock),
                bounds,
            );
            let waiting = resumed.remove(&sender.kind()).unwrap_or_default();
            let waiting = waiting.into_iter();
            let resumed = waiting.map(|push| QueuedPush::resumed(push, room.squeeze_in()));
            queue.accept(resumed.collect());
            let service = Service {
                queue: PushQueue::start_in_arbiter(arbiter, |_| queue),
                room,
                sender,
            };
            (service.sender.kind(), service)
        };
        let services: HashMap<_, _> = senders.into_iter().map(service).collect();
        let (notices, coming) = NoticePush::new(!services.is_empty());
        let ending = CancellationToken::new();
        let push = Self(Arc::new(Inner {
            services,
            devices,
            outbox,
            clock,
            notices,
            ending: ending.clone(),
        }));
        notice::spawn(push.clone(), coming, ending);
        push
    }

    /// Whether there is any service.
    pub fn is_configured(&self) -> bool {
        !self.0.services.is_empty()
    }

    /// Returns where notices of subscriptions are handed in.
    pub fn notices(&self) -> NoticePush {
        self.0.notices.clone()
    }

    /// Prepares what each service gets of a notification.
    ///
    /// # Errors
    /// 108 for what a service would refuse.
    pub fn prepare(&self, notification: &Map<String, Json>) -> Result<PushPayloads, ApiError> {
        let mut payloads = HashMap::new();
        for (kind, service) in &self.0.services {
            if let Some(payload) = service.sender.prepare(notification)? {
                payloads.insert(*kind, Arc::new(payload));
            }
        }
        Ok(PushPayloads(payloads))
    }

    /// Sends to devices; those of another topic get nothing.
    ///
    /// Returns what is known of each device, in the order asked for: `None` if it does not exist,
    /// else whether it was one to send to.
    ///
    /// # Errors
    /// 503 if a queue has no room; then nothing is sent.
    pub async fn to_devices(
        &self,
        ids: &[DeviceId],
        topic: Option<&str>,
        payloads: &PushPayloads,
    ) -> Result<Vec<Option<bool>>, ApiError> {
        let found = self.0.devices.find_devices(ids).await?;
        let is_meant = |device: &DeviceState| topic.is_none() || device.topic.as_deref() == topic;
        let answers = found.iter().map(|found| found.as_ref().map(is_meant));
        let answers = answers.collect();
        let loaded = ids.iter().cloned().zip(found);
        let meant = loaded.filter_map(|(id, device)| Some((id, device.filter(is_meant)?)));
        self.post(meant.collect(), payloads, None).await?;
        Ok(answers)
    }

    /// Sends to all devices of users, or to those with a topic.
    ///
    /// # Errors
    /// Those of [`Push::to_devices`].
    pub async fn to_users(
        &self,
        users: &[UserId],
        topic: Option<&str>,
        payloads: &PushPayloads,
    ) -> Result<(), ApiError> {
        let mut found = self.0.devices.list_devices_of(users).await?;
        found.retain(|(_, device)| topic.is_none() || device.topic.as_deref() == topic);
        self.post(found, payloads, None).await
    }

    /// Puts pushes into the queues, one per address; `subscription` is what they are notices of.
    ///
    /// No crash loses them from here on; notices, from their first failure on. Once the outbox is
    /// being told of them they are sent, even if nobody waits any more.
    pub(super) async fn post(
        &self,
        recipients: Vec<Recipient>,
        payloads: &PushPayloads,
        subscription: Option<&str>,
    ) -> Result<(), ApiError> {
        let is_kept = subscription.is_none();
        let mut addressed: HashMap<DeviceKind, Vec<Addressed>> = HashMap::new();
        let mut seen = HashSet::new();
        for (id, device) in recipients {
            let (kind, user) = (device.kind, device.user.clone());
            if !payloads.reaches(kind) {
                let kind = kind.name();
                tracing::debug!(device = %id, kind, "nothing to push to a device of this type");
                continue;
            }
            let Some(address) = Address::of(device) else {
                tracing::debug!(device = %id, "a device without an address cannot be pushed to");
                continue;
            };
            if seen.insert((kind, address.token.clone())) {
                let pushes = addressed.entry(kind).or_default();
                pushes.push((id, user, address));
            }
        }
        let mut ready = Vec::new();
        for (kind, pushes) in addressed {
            let (Some(service), Some(payload)) =
                (self.0.services.get(&kind), payloads.0.get(&kind))
            else {
                continue;
            };
            let mut pushes = self.with_places(service, pushes, payload)?;
            for push in &mut pushes {
                push.is_kept = is_kept;
                push.subscription = subscription.map(str::to_owned);
            }
            ready.push((kind, pushes));
        }
        let push = self.clone();
        let enqueued = async move { push.enqueue(ready, is_kept).await };
        let enqueued = run_to_completion("pushes", enqueued).await;
        enqueued.unwrap_or_else(|| Err(ApiError::overloaded("push")))
    }

    async fn enqueue(&self, ready: Vec<ForService>, is_kept: bool) -> Result<(), ApiError> {
        if is_kept {
            self.keep(&ready).await?;
        }
        let mut refused = Vec::new();
        for (kind, pushes) in ready {
            let ids: Vec<Uuid> = pushes.iter().map(|push| push.id).collect();
            let is_taken = match self.service(kind) {
                Some(service) if refused.is_empty() => service.take(pushes).await,
                _ => false,
            };
            if !is_taken {
                refused.extend(ids);
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        // A caller that learns that its pushes were not accepted asks again.
        if is_kept && let Err(error) = self.0.outbox.forget_pushes(&refused).await {
            tracing::warn!(%error, "refused pushes are sent after the next start all the same");
        }
        Err(ApiError::overloaded("push"))
    }

    async fn keep(&self, ready: &[ForService]) -> Result<(), ApiError> {
        let waiting = ready.iter().flat_map(|(kind, pushes)| {
            let kind = *kind;
            pushes.iter().map(move |push| push.waiting(kind))
        });
        let waiting: Vec<Waiting> = waiting.collect();
        if waiting.is_empty() {
            return Ok(());
        }
        self.0.outbox.keep_pushes(&waiting).await.map_err(|error| {
            tracing::error!(%error, "a push is refused because it cannot be saved");
            ApiError::unexpected("the push cannot be saved, try again").with_status(503)
        })
    }

    /// Creates pushes, each with a place in the queue.
    fn with_places(
        &self,
        service: &Service,
        pushes: Vec<Addressed>,
        payload: &Arc<Payload>,
    ) -> Result<Vec<QueuedPush>, ApiError> {
        let (num_pushes, max_queue) = (pushes.len(), service.room.max());
        if num_pushes > max_queue {
            let message = format!("{num_pushes} devices at once, but PUSH_QUEUE is {max_queue}");
            return Err(ApiError::new(Code::InvalidArgument, message));
        }
        let Some(places) = service.room.take(num_pushes) else {
            let service_name = service.sender.name();
            tracing::warn!(service = service_name, num_pushes, "the push queue is full");
            let _ = service.queue.try_send(NoteDropped(num_pushes as u64));
            return Err(ApiError::overloaded("the push queue"));
        };
        let push = |((device, user, address), place)| QueuedPush {
            id: Uuid::now_v7(),
            device,
            user,
            since: self.0.clock.now(),
            subscription: None,
            is_kept: false,
            failure: None,
            address: Some(address),
            payload: Arc::clone(payload),
            place,
        };
        Ok(pushes.into_iter().zip(places).map(push).collect())
    }

    /// Returns a notice as each service gets it.
    pub(super) fn notice(&self, number: u64, subscription: &str) -> PushPayloads {
        let services = self.0.services.iter();
        let payload = |(kind, service): (&DeviceKind, &Service)| {
            (*kind, Arc::new(service.sender.notice(number, subscription)))
        };
        PushPayloads(services.map(payload).collect())
    }

    pub(super) fn devices(&self) -> &Arc<dyn DeviceDirectory> {
        &self.0.devices
    }

    pub(super) fn outbox(&self) -> &Arc<dyn Outbox> {
        &self.0.outbox
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &Service> {
        self.0.services.values()
    }

    pub(super) fn service(&self, kind: DeviceKind) -> Option<&Service> {
        self.0.services.get(&kind)
    }

    /// Returns the states of all queues, by name; `None` if one does not answer.
    pub async fn states(&self) -> Option<Vec<PushState>> {
        let mut states = Vec::new();
        for service in self.0.services.values() {
            let state = timeout(QUEUE_TIMEOUT, service.queue.send(GetPushState)).await;
            states.push(state.ok()?.ok()??);
        }
        states.sort_by_key(|state| state.service);
        Some(states)
    }

    /// Accepts no more notices, and waits until everything that can be sent now has been sent.
    pub async fn leave(&self) {
        self.0.ending.cancel();
        // All at once: a service that hangs takes no time from the others.
        let leaving = self.0.services.values().map(|service| async {
            if let Ok(Some(done)) = service.queue.send(Leave).await {
                let _ = done.0.await;
            }
        });
        join_all(leaving).await;
    }
}
