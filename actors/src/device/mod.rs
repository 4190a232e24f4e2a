//! Devices: which apps on which phones belong to whom, where their push services reach them, and
//! what they subscribe to.
//!
//! They decide and append as accounts do. Devices are read from the store. All subscriptions are in
//! memory ([`crate::subscription::Subscriptions`]), where changes of records are held against them.

pub mod directory;
pub mod housekeeping;
pub mod messages;
mod subscribe;

use std::sync::Arc;

use async_trait::async_trait;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{ChangeStamp, DeviceState, EventBody, Stream};
use skytrail_schema::id::{Database, DeviceId, UserId};
use skytrail_schema::subscription::{Subscription, SubscriptionKey};
use skytrail_schema::time::Timestamp;
use tokio::sync::Mutex;
use uuid::Uuid;

use self::directory::DeviceDirectory;
use self::messages::{RegisterDevice, UnregisterDevice};
use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::record::attempt::{Outcome, commit, retry_on_conflict};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;
use crate::store::StoreError;
use crate::subscription::{SubscribedDevice, Subscriptions};

/// A device with the version of its stream.
pub type VersionedDevice = (u32, DeviceState);

/// The store's operations for devices.
#[async_trait]
pub trait DeviceStore: Send + Sync + 'static {
    /// Loads devices, in the order asked for.
    async fn load_devices(
        &self,
        ids: &[DeviceId],
    ) -> Result<Vec<Option<VersionedDevice>>, StoreError>;

    /// Finds the devices with an address at a push service.
    async fn find_devices(&self, token: &str) -> Result<Vec<DeviceId>, StoreError>;

    /// Lists the devices of users.
    async fn list_devices_of(&self, users: &[UserId]) -> Result<Vec<DeviceId>, StoreError>;

    /// Lists at most `limit` devices without such an address that were last registered before
    /// `before`.
    async fn list_unreachable(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<DeviceId>, StoreError>;

    /// Loads everything that devices subscribe to.
    async fn load_subscriptions(&self) -> Result<Vec<SubscribedDevice>, StoreError>;
}

/// The configurable limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Devices of a user: one more replaces the one that was registered longest ago.
    pub devices: usize,
    /// Subscriptions of a device.
    pub subscriptions: usize,
}

/// Registering devices, and what they subscribe to.
///
/// Only its user and the master key can use a device. To others, and if it has no user, it does not
/// seem to exist: nobody learns of a device that is not theirs.
pub struct Devices {
    env: RecordEnv,
    limits: DeviceLimits,
    store: Arc<dyn DeviceStore>,
    subscriptions: Arc<Subscriptions>,
    turn: Mutex<()>,
}

impl Devices {
    /// Builds the service.
    pub fn new(
        env: RecordEnv,
        store: Arc<dyn DeviceStore>,
        subscriptions: Arc<Subscriptions>,
        limits: DeviceLimits,
    ) -> Self {
        Self {
            env,
            limits,
            store,
            subscriptions,
            turn: Mutex::new(()),
        }
    }

    /// Registers a device and returns its id; other devices with its address are forgotten. If the
    /// device gets another user, its subscriptions end.
    ///
    /// # Errors
    /// 110 for an id that no device has; those of [`RecordEnv::check_writer`].
    pub async fn register(&self, command: RegisterDevice) -> Result<DeviceId, ApiError> {
        let new_id = DeviceId::from(Uuid::new_v4().to_string());
        let id = command.id.clone().unwrap_or(new_id);
        retry_on_conflict(Some(&self.turn), |_| async {
            let read_position = self.read_position().await?;
            let current = match &command.id {
                Some(id) => Some(self.load(id).await?.ok_or_else(not_found)?),
                None => None,
            };
            let before = current.as_ref().map(|(_, state)| state);
            let kept = |text: Option<String>, of: fn(&DeviceState) -> &Option<String>| {
                text.or_else(|| of(before?).clone())
            };
            let touch = self.touch(&command.context);
            let token = given(command.token.as_ref());
            let caller = &command.context.caller;
            let mut plan = Plan::default();
            plan.reads.extend(self.env.check_writer(caller).await?);
            if let Some(token) = &token {
                self.take_over_token(&mut plan, token, &id, &touch).await?;
            }
            // A program with the master key has devices for others.
            if let Some(user) = caller.user.as_ref().filter(|_| !caller.is_master())
                && before.is_none_or(|state| state.user.as_ref() != Some(user))
            {
                self.make_room(&mut plan, user, &touch).await?;
            }
            let state = DeviceState {
                user: command.context.caller.user.clone(),
                kind: command.kind,
                token: kept(token, |state| &state.token),
                topic: kept(given(command.topic.as_ref()), |state| &state.topic),
                registered_at: touch.at,
            };
            if before.is_some_and(|before| before.user != state.user) {
                self.end_subscriptions(&mut plan, &id);
            }
            let version = current.as_ref().map_or(0, |(version, _)| *version);
            let body = EventBody::DeviceRegistered(state);
            plan.push(Stream::Device(id.clone()), version + 1, body);
            self.commit(plan, read_position, &command.context).await
        })
        .await?;
        Ok(id)
    }

    /// Takes a device from its user; other devices with its address are forgotten.
    ///
    /// # Errors
    /// 110 for an id that none of the caller's devices has.
    pub async fn unregister(&self, command: UnregisterDevice) -> Result<(), ApiError> {
        let id = &command.id;
        retry_on_conflict(Some(&self.turn), |_| async {
            let read_position = self.read_position().await?;
            let loaded = self.load(id).await?;
            let (version, state) = loaded
                .filter(|(_, state)| is_for(&command.context.caller, state.user.as_ref()))
                .ok_or_else(not_found)?;
            let touch = self.touch(&command.context);
            let mut plan = Plan::default();
            if let Some(token) = &state.token {
                self.take_over_token(&mut plan, token, id, &touch).await?;
            }
            let body = EventBody::DeviceUnregistered(touch);
            plan.push(Stream::Device(id.clone()), version + 1, body);
            self.commit(plan, read_position, &command.context).await
        })
        .await
    }

    /// Finds a subscription.
    pub fn find_subscription(
        &self,
        caller: &Caller,
        device: &DeviceId,
        key: &SubscriptionKey,
    ) -> Option<Arc<Subscription>> {
        let (user, subscription) = self.subscriptions.get(device, key)?;
        is_for(caller, user.as_ref()).then_some(subscription)
    }

    /// Lists a device's subscriptions in one database, by name.
    pub fn list_subscriptions(
        &self,
        caller: &Caller,
        device: &DeviceId,
        database: &Database,
    ) -> Vec<Arc<Subscription>> {
        let (user, listed) = self.subscriptions.list(device, database);
        if is_for(caller, user.as_ref()) {
            return listed;
        }
        Vec::new()
    }

    /// Returns the position as of which the store is read next, once the store has applied it.
    async fn read_position(&self) -> Result<u64, ApiError> {
        let position = self.env.model.position();
        self.env.applied.wait_for(position).await?;
        Ok(position)
    }

    async fn load(&self, id: &DeviceId) -> Result<Option<VersionedDevice>, ApiError> {
        let loaded = self.store.load_devices(std::slice::from_ref(id)).await?;
        Ok(loaded.into_iter().next().flatten())
    }

    /// Plans to forget every device with an address, except `keep`.
    async fn take_over_token(
        &self,
        plan: &mut Plan,
        token: &str,
        keep: &DeviceId,
        touch: &ChangeStamp,
    ) -> Result<(), ApiError> {
        let key = ConflictKey::device_token(token);
        plan.reads.insert(key);
        plan.writes.insert(key);
        for other in self.store.find_devices(token).await? {
            if other != *keep
                && let Some((version, _)) = self.load(&other).await?
            {
                let body = EventBody::DeviceDeleted(touch.clone());
                plan.push(Stream::Device(other), version + 1, body);
            }
        }
        Ok(())
    }

    /// Plans that a user with the maximum number of devices loses one when they get another.
    ///
    /// It is the one registered longest ago, because apps register at each start. A user who has
    /// more already, from an import or from before there was a limit, loses no more than one.
    async fn make_room(
        &self,
        plan: &mut Plan,
        user: &UserId,
        touch: &ChangeStamp,
    ) -> Result<(), ApiError> {
        let key = ConflictKey::devices_of(user);
        plan.reads.insert(key);
        plan.writes.insert(key);
        let ids = self
            .store
            .list_devices_of(std::slice::from_ref(user))
            .await?;
        let is_leaving = |id: &DeviceId| {
            let stream = Stream::Device(id.clone());
            plan.events.iter().any(|event| event.stream == stream)
        };
        let ids: Vec<DeviceId> = ids.into_iter().filter(|id| !is_leaving(id)).collect();
        if ids.len() < self.limits.devices {
            return Ok(());
        }
        let states = self.store.load_devices(&ids).await?;
        let loaded = ids.into_iter().zip(states);
        let loaded =
            loaded.filter_map(|(id, device)| device.map(|(version, state)| (state, id, version)));
        let oldest = loaded.min_by_key(|(state, id, _)| (state.registered_at, id.clone()));
        if let Some((_, id, version)) = oldest {
            tracing::info!(
                device = %id, user = %user,
                "a user has too many devices; the oldest is forgotten"
            );
            plan.push(
                Stream::Device(id),
                version + 1,
                EventBody::DeviceDeleted(touch.clone()),
            );
        }
        Ok(())
    }

    /// Plans to end all subscriptions of a device that gets another user: they were made for the
    /// former user, with that user's rights.
    fn end_subscriptions(&self, plan: &mut Plan, id: &DeviceId) {
        let stream = Stream::Subscriptions(id.clone());
        // So no subscription that is being saved meanwhile is left over.
        plan.reads.insert(ConflictKey::stream(&stream));
        let version = self.subscriptions.version(id);
        for (version, key) in (version + 1..).zip(self.subscriptions.keys(id)) {
            let body = EventBody::SubscriptionDeleted(key);
            plan.push(stream.clone(), version, body);
        }
    }

    fn touch(&self, context: &RequestContext) -> ChangeStamp {
        ChangeStamp {
            at: self.env.clock.now(),
            by: context.caller.user.clone(),
        }
    }

    async fn commit(
        &self,
        plan: Plan,
        read_position: u64,
        context: &RequestContext,
    ) -> Result<Outcome<()>, ApiError> {
        let done = commit(&self.env.log, plan, read_position, context).await?;
        Ok(done.discard())
    }
}

/// Whether the caller can use a device with this user.
fn is_for(caller: &Caller, user: Option<&UserId>) -> bool {
    caller.is_master() || (user.is_some() && user == caller.user.as_ref())
}

fn not_found() -> ApiError {
    ApiError::new(Code::ResourceNotFound, "Device not found")
}

/// Returns the error for a subscription that does not exist.
pub fn no_subscription(id: &str) -> ApiError {
    let message = format!("cannot find subscription {id:?}");
    ApiError::new(Code::ResourceNotFound, message).with_info("id", id.into())
}

fn given(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

#[async_trait]
impl DeviceDirectory for Devices {
    async fn find_devices(&self, ids: &[DeviceId]) -> Result<Vec<Option<DeviceState>>, ApiError> {
        self.read_position().await?;
        let found = self.store.load_devices(ids).await?;
        let state = |device: Option<VersionedDevice>| device.map(|(_, state)| state);
        Ok(found.into_iter().map(state).collect())
    }

    async fn list_devices_of(
        &self,
        users: &[UserId],
    ) -> Result<Vec<(DeviceId, DeviceState)>, ApiError> {
        self.read_position().await?;
        let ids = self.store.list_devices_of(users).await?;
        let found = self.store.load_devices(&ids).await?;
        let loaded = ids.into_iter().zip(found);
        Ok(loaded
            .filter_map(|(id, device)| Some((id, device?.1)))
            .collect())
    }

    async fn forget_address(&self, token: &str, before: Timestamp) -> Result<usize, ApiError> {
        retry_on_conflict(Some(&self.turn), |_| self.forget_at(token, before)).await
    }
}
