//! A user's devices: their own, those that nobody has any more, and those that others have now.

use std::collections::{BTreeMap, BTreeSet};

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, EventBody, EventKind, SavedSubscription, Stream};
use skytrail_schema::id::{DeviceId, UserId};

use super::Eraser;
use crate::context::RequestContext;
use crate::log::seek::load_events;
use crate::record::decide::Plan;

/// How many events are read at once.
const BATCH_SIZE: usize = 256;

/// The events about a user's devices and about what the user had devices subscribe to.
#[derive(Debug, Default)]
pub(super) struct OfDevices {
    /// The positions of the events.
    pub(super) positions: Vec<u64>,
    /// The devices that they are about.
    pub(super) devices: BTreeSet<DeviceId>,
}

impl Eraser {
    /// Finds the events about a user's devices.
    pub(super) async fn of_devices(
        &self,
        user: &UserId,
        until: u64,
    ) -> Result<OfDevices, ApiError> {
        // What other users register or save never concerns this one, unless they had a plugin do it.
        let kinds = [EventKind::DeviceRegistered, EventKind::SubscriptionSaved];
        let positions = self.env.store.list_positions_of_user(user, &kinds, until);
        let positions = positions.await?;
        let mut found = OfDevices::default();
        for some in positions.chunks(BATCH_SIZE) {
            for (commit, event) in load_events(&*self.env.log, some).await? {
                let is_for_user = match &event.body {
                    EventBody::DeviceRegistered(state) => state.user.as_ref() == Some(user),
                    EventBody::SubscriptionSaved(saved) => belongs_to_user(user, saved, &commit),
                    _ => false,
                };
                if let (Stream::Device(device) | Stream::Subscriptions(device), true) =
                    (event.stream, is_for_user)
                {
                    found.positions.push(event.position);
                    found.devices.insert(device);
                }
            }
        }
        Ok(found)
    }

    /// Plans that devices are deleted if they are the user's, or nobody's any more. A device that
    /// another user has now stays, without the subscriptions that the erased user made.
    pub(super) async fn plan_without_devices(
        &self,
        plan: &mut Plan,
        (user, devices): (&UserId, &BTreeSet<DeviceId>),
        context: &RequestContext,
        until: u64,
    ) -> Result<(), ApiError> {
        let devices: Vec<DeviceId> = devices.iter().cloned().collect();
        let loaded = self.devices.load_devices(&devices).await?;
        for (device, loaded) in devices.into_iter().zip(loaded) {
            let Some((version, state)) = loaded else {
                continue;
            };
            if state.user.as_ref().is_none_or(|now| now == user) {
                let body = EventBody::DeviceDeleted(self.touch(context));
                plan.push(Stream::Device(device), version + 1, body);
            } else {
                self.plan_without_subscriptions(plan, user, device, until)
                    .await?;
            }
        }
        Ok(())
    }

    async fn plan_without_subscriptions(
        &self,
        plan: &mut Plan,
        user: &UserId,
        device: DeviceId,
        until: u64,
    ) -> Result<(), ApiError> {
        let stream = Stream::Subscriptions(device);
        let (mut kept, mut version) = (BTreeMap::new(), 0);
        for (commit, event) in self.env.streams().read(&stream, 1..=until).await? {
            version = event.version;
            match event.body {
                EventBody::SubscriptionSaved(saved) => {
                    let is_for_user = belongs_to_user(user, &saved, &commit);
                    kept.insert(saved.subscription.key, is_for_user);
                }
                EventBody::SubscriptionDeleted(key) => drop(kept.remove(&key)),
                _ => {}
            }
        }
        for (key, _) in kept.into_iter().filter(|(_, is_for_user)| *is_for_user) {
            version += 1;
            plan.push(stream.clone(), version, EventBody::SubscriptionDeleted(key));
        }
        Ok(())
    }
}

/// Returns whether a subscription is for a user or was saved by them. Their key may have sealed
/// either.
fn belongs_to_user(user: &UserId, saved: &SavedSubscription, commit: &Commit) -> bool {
    [&saved.subscriber, &commit.actor.user].contains(&&Some(user.clone()))
}
