//! Push services, devices and an outbox that behave as the test says.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::Arbiter;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Map, Value as Json};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{DeviceKind, DeviceState};
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::time::Timestamp;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};
use tokio::time::timeout;
use uuid::Uuid;

use super::super::sender::SendError;
use super::super::{
    Address, Outbox, Payload, Push, PushParts, PushPayloads, PushSender, PushSettings, PushState,
    Waiting,
};
use crate::clock::ManualClock;
use crate::device::directory::DeviceDirectory;
use crate::ops_store::OpsStoreError;

/// Waits for something that must happen soon.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.unwrap()
}

pub(super) fn device(id: &str, kind: DeviceKind) -> (DeviceId, DeviceState) {
    let state = DeviceState {
        user: Some("ada".into()),
        kind,
        token: Some(id.to_owned()),
        topic: None,
        registered_at: Timestamp::from_micros(0),
    };
    (id.into(), state)
}

/// Every user has one device, an iPhone.
struct Phones;

#[async_trait]
impl DeviceDirectory for Phones {
    async fn find_devices(&self, ids: &[DeviceId]) -> Result<Vec<Option<DeviceState>>, ApiError> {
        let found = |id: &DeviceId| Some(device(id.as_str(), DeviceKind::Ios).1);
        Ok(ids.iter().map(found).collect())
    }

    async fn list_devices_of(
        &self,
        users: &[UserId],
    ) -> Result<Vec<(DeviceId, DeviceState)>, ApiError> {
        let its = |user: &UserId| device(user.as_str(), DeviceKind::Ios);
        Ok(users.iter().map(its).collect())
    }

    async fn forget_address(&self, _: &str, _: Timestamp) -> Result<usize, ApiError> {
        Ok(0)
    }
}

/// Keeps pushes in memory.
#[derive(Default)]
pub(super) struct Memory {
    kept: watch::Sender<Vec<Waiting>>,
    /// While somebody holds this, nothing is answered.
    turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) num_forgets_to_fail: AtomicUsize,
}

impl Memory {
    /// While this is held, pushes are kept but that is not answered.
    pub(super) async fn hold(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    pub(super) fn kept(&self) -> Vec<Waiting> {
        self.kept.borrow().clone()
    }

    /// Waits until what is kept is as wanted.
    pub(super) async fn until(&self, is_so: impl Fn(&Vec<Waiting>) -> bool) {
        self.kept.subscribe().wait_for(is_so).await.unwrap();
    }
}

#[async_trait]
impl Outbox for Memory {
    async fn keep_pushes(&self, pushes: &[Waiting]) -> Result<(), OpsStoreError> {
        let is_other = |it: &Waiting| pushes.iter().all(|push| push.id != it.id);
        self.kept.send_modify(|kept| {
            kept.retain(is_other);
            kept.extend_from_slice(pushes);
        });
        let _turn = self.turn.lock().await;
        Ok(())
    }

    async fn forget_pushes(&self, ids: &[Uuid]) -> Result<(), OpsStoreError> {
        let is_failing = |remaining: usize| remaining.checked_sub(1);
        let remaining = &self.num_forgets_to_fail;
        if remaining
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_failing)
            .is_ok()
        {
            return Err(OpsStoreError("of the test".to_owned()));
        }
        self.kept
            .send_modify(|kept| kept.retain(|it| !ids.contains(&it.id)));
        Ok(())
    }

    async fn load_pushes(&self) -> Result<Vec<Waiting>, OpsStoreError> {
        Ok(self.kept())
    }
}

/// How the services behave.
#[derive(Default)]
pub(super) struct Senders {
    hanging: Mutex<HashSet<DeviceKind>>,
    refusing: Mutex<HashSet<DeviceKind>>,
    /// How the next pushes are answered: whether they are accepted.
    scripted: Mutex<VecDeque<oneshot::Receiver<bool>>>,
    accepted: Mutex<Vec<Vec<u8>>>,
}

impl Senders {
    /// One service never answers.
    pub(super) fn hang(&self, kind: DeviceKind) {
        self.hanging.lock().insert(kind);
    }

    /// One service is down.
    pub(super) fn refuse(&self, kind: DeviceKind) {
        self.refusing.lock().insert(kind);
    }

    /// The next push is answered when the test says how: whether it is accepted. If it is not, the
    /// service is down.
    pub(super) fn script(&self) -> oneshot::Sender<bool> {
        let (answer, answered) = oneshot::channel();
        self.scripted.lock().push_back(answered);
        answer
    }

    /// Returns the contents of the accepted pushes.
    pub(super) fn accepted(&self) -> Vec<String> {
        let accepted = self.accepted.lock();
        let text = |content: &Vec<u8>| String::from_utf8(content.clone()).unwrap();
        accepted.iter().map(text).collect()
    }
}

struct Service {
    kind: DeviceKind,
    all: Arc<Senders>,
    sent: mpsc::UnboundedSender<DeviceKind>,
}

#[async_trait]
impl PushSender for Service {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn kind(&self) -> DeviceKind {
        self.kind
    }

    fn prepare(&self, _: &Map<String, Json>) -> Result<Option<Payload>, ApiError> {
        Ok(Some(Payload::default()))
    }

    fn notice(&self, number: u64, _: &str) -> Payload {
        Payload::new(number.to_string().into_bytes(), Vec::new())
    }

    async fn send(&self, _: &Address, payload: &Arc<Payload>, _: Uuid) -> Result<(), SendError> {
        let scripted = self.all.scripted.lock().pop_front();
        let _ = self.sent.send(self.kind);
        let down = |wait| SendError::Later {
            wait,
            holds_all: true,
            why: "of the test".to_owned(),
        };
        if let Some(answered) = scripted
            && !answered.await.unwrap()
        {
            return Err(down(None));
        }
        if self.all.hanging.lock().contains(&self.kind) {
            std::future::pending::<()>().await;
        }
        if self.all.refusing.lock().contains(&self.kind) {
            return Err(down(Some(Duration::from_secs(600))));
        }
        self.all.accepted.lock().push(payload.content.clone());
        Ok(())
    }
}

pub(super) struct World {
    pub(super) push: Push,
    pub(super) outbox: Arc<Memory>,
    pub(super) senders: Arc<Senders>,
    pub(super) clock: ManualClock,
    /// The services that were asked to send.
    pub(super) sent: mpsc::UnboundedReceiver<DeviceKind>,
}

impl World {
    /// Starts services of these kinds, which are up.
    pub(super) fn start(kinds: &[DeviceKind]) -> Self {
        Self::resuming(kinds, Vec::new())
    }

    /// The same, with what was waiting before.
    pub(super) fn resuming(kinds: &[DeviceKind], waiting: Vec<Waiting>) -> Self {
        let (sender, sent) = mpsc::unbounded_channel();
        let (outbox, all) = (Arc::<Memory>::default(), Arc::<Senders>::default());
        outbox.kept.send_replace(waiting.clone());
        let clock = ManualClock::default();
        let service = |kind: &DeviceKind| {
            Arc::new(Service {
                kind: *kind,
                all: Arc::clone(&all),
                sent: sender.clone(),
            }) as Arc<dyn PushSender>
        };
        let parts = PushParts {
            senders: kinds.iter().map(service).collect(),
            devices: Arc::new(Phones),
            outbox: Arc::clone(&outbox) as _,
            clock: Arc::new(clock.clone()),
            settings: PushSettings {
                max_queue: 100,
                max_attempts: 10,
            },
        };
        Self {
            push: Push::start(parts, waiting, &Arbiter::current()),
            outbox,
            senders: all,
            clock,
            sent,
        }
    }

    /// Waits until the only service's figures are as wanted; returns them.
    pub(super) async fn until(&self, is_so: impl Fn(&PushState) -> bool) -> PushState {
        let reached = async {
            loop {
                let states = self.push.states().await.unwrap();
                if let [state] = states.as_slice()
                    && is_so(state)
                {
                    return *state;
                }
                tokio::task::yield_now().await;
            }
        };
        soon(reached).await
    }

    /// Tells a phone of a subscription.
    pub(super) async fn tell(&self, number: u64, subscription: &str) {
        let notice = self.push.notice(number, subscription);
        let recipient = vec![device("phone", DeviceKind::Ios)];
        let told = self.push.post(recipient, &notice, Some(subscription));
        told.await.unwrap();
    }

    /// Returns an empty notification.
    pub(super) fn payloads(&self) -> PushPayloads {
        self.push.prepare(&Map::new()).unwrap()
    }
}
