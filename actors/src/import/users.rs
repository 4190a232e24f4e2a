//! Users, their relations, their devices and the devices' subscriptions.

use std::collections::{BTreeSet, HashMap, HashSet};

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{
    DeviceState, EventBody, RelationTarget, SavedSubscription, Stream, UserState,
};
use skytrail_schema::id::{DeviceId, UserId};
use skytrail_schema::predicate::Relation;
use skytrail_schema::subscription::{Subscription, SubscriptionKey};

use super::{Importer, Outcome, deleted_here, too_long};
use crate::device::DeviceStore;
use crate::record::decide::Plan;

/// Some of a user's relations of one kind.
#[derive(Clone, Debug)]
pub struct Relations {
    /// The kind.
    pub relation: Relation,
    /// The user who has them.
    pub user: UserId,
    /// The users that they lead to.
    pub others: Vec<UserId>,
}

/// What a device subscribes to.
#[derive(Clone, Debug)]
pub struct ImportedSubscriptions {
    /// The device.
    pub device: DeviceId,
    /// Who uses it.
    pub subscriber: Option<UserId>,
    /// The subscriptions.
    pub subscriptions: Vec<Subscription>,
}

impl Importer {
    /// Imports users' auth rows; their records are imported with the records.
    ///
    /// # Errors
    /// The log or the store failed.
    pub async fn users(&self, users: Vec<(UserId, UserState)>) -> Result<Vec<Outcome>, ApiError> {
        let position = self.read_position().await?;
        let ids: Vec<UserId> = users.iter().map(|(id, _)| id.clone()).collect();
        let existing = self.env.store.load_users(&ids).await?;
        let mut plan = Plan::default();
        plan.define_roles(
            &self.env,
            users
                .iter()
                .flat_map(|(_, state)| &state.roles)
                .collect::<BTreeSet<_>>()
                .into_iter(),
        );
        let mut outcomes = Vec::with_capacity(users.len());
        for ((id, state), existing) in users.into_iter().zip(existing) {
            let outcome = match existing {
                Some((_, here)) if here == state => Outcome::Present,
                Some(_) => Outcome::Kept("the user already exists here".to_owned()),
                None => self.new_user(&mut plan, id, state).await?,
            };
            outcomes.push(outcome);
        }
        self.append(plan, position).await?;
        Ok(outcomes)
    }

    async fn new_user(
        &self,
        plan: &mut Plan,
        id: UserId,
        state: UserState,
    ) -> Result<Outcome, ApiError> {
        if id.as_str().is_empty() {
            return Ok(Outcome::Refused("the id is empty".to_owned()));
        }
        if let Some(refused) = too_long("a user's id", id.as_str()) {
            return Ok(refused);
        }
        let stream = Stream::User(id);
        if self.was_here(&stream).await? {
            return Ok(deleted_here());
        }
        for (service, link) in &state.links {
            let linked = self.env.store.find_linked(service, &link.principal).await?;
            if let Some(other) = linked {
                let reason = format!("{service} {} is linked to {other}", link.principal);
                return Ok(Outcome::Refused(reason));
            }
        }
        plan.push(stream, 1, EventBody::UserCreated(state));
        Ok(Outcome::Added)
    }

    /// Imports relations.
    ///
    /// # Errors
    /// The log or the store failed.
    pub async fn relations(&self, relations: &[Relations]) -> Result<Vec<Outcome>, ApiError> {
        let position = self.read_position().await?;
        let mut plan = Plan::default();
        let mut versions: HashMap<Stream, u32> = HashMap::new();
        let mut outcomes = Vec::new();
        for Relations {
            relation,
            user,
            others,
        } in relations
        {
            let (version, present) = self
                .env
                .store
                .load_relations(*relation, user, others)
                .await?;
            let stream = Stream::Relation(*relation, user.clone());
            let version = versions.entry(stream.clone()).or_insert(version);
            let ended = if others.iter().all(|to| present.contains(to)) {
                HashSet::new()
            } else {
                let ended = |body| match body {
                    EventBody::RelationRemoved(target) => Some(target.to),
                    _ => None,
                };
                self.ended(&stream, ended).await?
            };
            for to in others {
                let mut ids = [user, to].into_iter();
                if let Some(refused) = ids.find_map(|id| too_long("a user's id", id.as_str())) {
                    outcomes.push(refused);
                } else if user.as_str().is_empty() || to.as_str().is_empty() {
                    let reason = "one of its two users is missing".to_owned();
                    outcomes.push(Outcome::Refused(reason));
                } else if present.contains(to) {
                    outcomes.push(Outcome::Present);
                } else if ended.contains(to) {
                    outcomes.push(deleted_here());
                } else {
                    *version += 1;
                    let body = EventBody::RelationAdded(RelationTarget { to: to.clone() });
                    plan.push(stream.clone(), *version, body);
                    outcomes.push(Outcome::Added);
                }
            }
        }
        self.append(plan, position).await?;
        Ok(outcomes)
    }

    /// Imports devices. Of several with one address the first one counts.
    ///
    /// # Errors
    /// The log or the store failed.
    pub async fn devices(
        &self,
        store: &dyn DeviceStore,
        devices: Vec<(DeviceId, DeviceState)>,
    ) -> Result<Vec<Outcome>, ApiError> {
        let position = self.read_position().await?;
        let ids: Vec<DeviceId> = devices.iter().map(|(id, _)| id.clone()).collect();
        let existing = store.load_devices(&ids).await?;
        let mut plan = Plan::default();
        let mut tokens = HashSet::new();
        let mut outcomes = Vec::with_capacity(devices.len());
        for ((id, state), existing) in devices.into_iter().zip(existing) {
            if let Some(refused) = too_long("a device's id", id.as_str()) {
                outcomes.push(refused);
                continue;
            }
            if let Some((_, here)) = existing {
                outcomes.push(if here == state {
                    Outcome::Present
                } else {
                    Outcome::Kept("the device already exists here".to_owned())
                });
                continue;
            }
            let stream = Stream::Device(id);
            if self.was_here(&stream).await? {
                outcomes.push(deleted_here());
                continue;
            }
            if let Some(token) = &state.token {
                let is_taken =
                    !tokens.insert(token.clone()) || !store.find_devices(token).await?.is_empty();
                if is_taken {
                    let reason = "another device has its address".to_owned();
                    outcomes.push(Outcome::Refused(reason));
                    continue;
                }
            }
            plan.push(stream, 1, EventBody::DeviceRegistered(state));
            outcomes.push(Outcome::Added);
        }
        self.append(plan, position).await?;
        Ok(outcomes)
    }

    /// Imports subscriptions; their devices must be here.
    ///
    /// # Errors
    /// The log or the store failed.
    pub async fn subscriptions(
        &self,
        store: &dyn DeviceStore,
        all: Vec<ImportedSubscriptions>,
    ) -> Result<Vec<Outcome>, ApiError> {
        let position = self.read_position().await?;
        let here = store.load_subscriptions().await?;
        let here: HashMap<_, _> = here.into_iter().map(|it| (it.id.clone(), it)).collect();
        let mut plan = Plan::default();
        let mut outcomes = Vec::new();
        for ImportedSubscriptions {
            device,
            subscriber,
            subscriptions,
        } in all
        {
            let devices = store.load_devices(std::slice::from_ref(&device));
            let is_here = self.options.is_dry || devices.await?.iter().any(Option::is_some);
            let existing = here.get(&device);
            let mut version = existing.map_or(0, |existing| existing.version);
            let find = |key: &SubscriptionKey| {
                let mut existing = existing.iter().flat_map(|existing| &existing.subscriptions);
                existing.find(|existing| existing.key == *key)
            };
            let stream = Stream::Subscriptions(device.clone());
            let exists = |it: &Subscription| find(&it.key).is_some();
            let ended = if !is_here || subscriptions.iter().all(exists) {
                HashSet::new()
            } else {
                let ended = |body| match body {
                    EventBody::SubscriptionDeleted(key) => Some(key),
                    _ => None,
                };
                self.ended(&stream, ended).await?
            };
            for subscription in subscriptions {
                outcomes.push(match find(&subscription.key) {
                    _ if !is_here => Outcome::Refused("its device does not exist here".to_owned()),
                    Some(existing) if *existing == subscription => Outcome::Present,
                    Some(_) => Outcome::Kept("one with this name exists here".to_owned()),
                    None if ended.contains(&subscription.key) => deleted_here(),
                    None => {
                        version += 1;
                        let body = EventBody::SubscriptionSaved(SavedSubscription {
                            subscriber: subscriber.clone(),
                            subscription,
                        });
                        plan.push(stream.clone(), version, body);
                        Outcome::Added
                    }
                });
            }
        }
        self.append(plan, position).await?;
        Ok(outcomes)
    }
}
