//! The subscriptions in memory: by device, for those who ask for them, and by record type and what
//! a record must have to match ([`listing`]).

mod listing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use skytrail_schema::event::{Commit, Event, EventBody, SavedSubscription, Stream};
use skytrail_schema::id::{Database, DeviceId, TypeName, UserId};
use skytrail_schema::query::Query;
use skytrail_schema::record::Record;
use skytrail_schema::subscription::{Subscription, SubscriptionKey};

use self::listing::{Listing, Name};
use crate::log::CommitObserver;

/// A device and what it subscribes to, as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscribedDevice {
    /// The device.
    pub id: DeviceId,
    /// Who uses it.
    pub user: Option<UserId>,
    /// The version of its stream of subscriptions.
    pub version: u32,
    /// Its subscriptions.
    pub subscriptions: Vec<Subscription>,
}

/// A subscription that a change may concern.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The device.
    pub device: DeviceId,
    /// Who uses it.
    pub user: Option<UserId>,
    /// The database of the records that it is about.
    pub database: Database,
    /// The subscription's name.
    pub id: String,
    /// Which records it is about: only the condition counts.
    pub query: Arc<Query>,
}

/// See the module's overview. An observer of the log: once a save is acknowledged, it can be found
/// here.
#[derive(Debug, Default)]
pub struct Subscriptions(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    devices: HashMap<DeviceId, Device>,
    /// Kept in step with `devices`: the subscriptions that can match, by record type and
    /// database.
    by_type: HashMap<TypeName, HashMap<Database, Listing>>,
}

#[derive(Debug)]
struct Device {
    user: Option<UserId>,
    version: u32,
    subscriptions: BTreeMap<SubscriptionKey, Entry>,
}

#[derive(Debug)]
struct Entry {
    subscription: Arc<Subscription>,
    /// `None` for a query that this version cannot read; it matches nothing.
    query: Option<Arc<Query>>,
    /// The position at which it was saved: earlier changes do not concern it.
    since: u64,
}

impl Subscriptions {
    /// Builds them from what is stored.
    pub fn new(stored: Vec<SubscribedDevice>) -> Self {
        let mut index = Index::default();
        for device in stored {
            for subscription in device.subscriptions {
                index.put(&device.id, (device.user.clone(), subscription), 0);
            }
            let user = device.user;
            index.device(&device.id, || user).version = device.version;
        }
        Self(RwLock::new(index))
    }

    /// Whether no change concerns anybody.
    pub fn is_empty(&self) -> bool {
        self.0.read().by_type.is_empty()
    }

    /// Returns how many subscriptions can match.
    pub fn len(&self) -> usize {
        let index = self.0.read();
        let listings = index.by_type.values().flat_map(HashMap::values);
        listings.map(Listing::len).sum()
    }

    /// Returns the version of a device's stream of subscriptions.
    pub fn version(&self, device: &DeviceId) -> u32 {
        let index = self.0.read();
        index
            .devices
            .get(device)
            .map_or(0, |device_entry| device_entry.version)
    }

    /// Returns the keys of a device's subscriptions, in all databases.
    pub fn keys(&self, device: &DeviceId) -> BTreeSet<SubscriptionKey> {
        let index = self.0.read();
        let device_entry = index.devices.get(device).into_iter();
        device_entry
            .flat_map(|device| device.subscriptions.keys().cloned())
            .collect()
    }

    /// Finds a subscription, with the device's user.
    pub fn get(
        &self,
        device: &DeviceId,
        key: &SubscriptionKey,
    ) -> Option<(Option<UserId>, Arc<Subscription>)> {
        let index = self.0.read();
        let device_entry = index.devices.get(device)?;
        let entry = device_entry.subscriptions.get(key)?;
        Some((device_entry.user.clone(), Arc::clone(&entry.subscription)))
    }

    /// Lists a device's subscriptions in one database, by name, with its user.
    pub fn list(
        &self,
        device: &DeviceId,
        database: &Database,
    ) -> (Option<UserId>, Vec<Arc<Subscription>>) {
        let index = self.0.read();
        let Some(device_entry) = index.devices.get(device) else {
            return (None, Vec::new());
        };
        let all = device_entry.subscriptions.iter();
        let of_database = all.filter(|(key, _)| key.database == *database);
        let listed = of_database.map(|(_, entry)| Arc::clone(&entry.subscription));
        (device_entry.user.clone(), listed.collect())
    }

    /// Whether some subscription is about records of a type.
    pub fn has_any(&self, record_type: &TypeName) -> bool {
        self.0.read().by_type.contains_key(record_type)
    }

    /// Whether some subscription about records of a type in a database cannot match all of them.
    pub fn is_selective(&self, record_type: &TypeName, database: &Database) -> bool {
        let index = self.0.read();
        let listing = index.listing(record_type, database);
        listing.is_some_and(Listing::is_selective)
    }

    /// Returns the subscriptions that a change of a record at `position` may concern, by device and
    /// name: those in the record's database that one of its `states` may match. If nothing is left
    /// of the record, those of the type in all databases.
    pub fn candidates(
        &self,
        record_type: &TypeName,
        states: &[&Record],
        position: u64,
    ) -> Vec<Candidate> {
        let index = self.0.read();
        let named: Vec<&Name> = match states.first() {
            Some(record) => {
                let listing = index.listing(record_type, &record.database);
                listing.map_or_else(Vec::new, |listing| listing.matching(states))
            }
            None => {
                let listings = index.by_type.get(record_type).into_iter();
                let listings = listings.flat_map(HashMap::values);
                let all: BTreeSet<&Name> = listings.flat_map(Listing::all).collect();
                all.into_iter().collect()
            }
        };
        let candidate = |name: &Name| index.candidate(name, position);
        named.into_iter().filter_map(candidate).collect()
    }
}

impl CommitObserver for Subscriptions {
    fn committed(&self, commits: &[Arc<Commit>]) {
        let is_ours =
            |event: &&Event| matches!(event.stream, Stream::Device(_) | Stream::Subscriptions(_));
        let events = commits.iter().flat_map(|commit| &commit.events);
        let mut events = events.filter(is_ours).peekable();
        if events.peek().is_some() {
            let mut index = self.0.write();
            events.for_each(|event| index.apply(event));
        }
    }
}

impl Index {
    fn listing(&self, record_type: &TypeName, database: &Database) -> Option<&Listing> {
        self.by_type.get(record_type)?.get(database)
    }

    fn candidate(&self, name: &Name, position: u64) -> Option<Candidate> {
        let (device, key) = &**name;
        let device_entry = self.devices.get(device)?;
        let entry = device_entry.subscriptions.get(key)?;
        let query = entry.query.as_ref().filter(|_| entry.since < position)?;
        Some(Candidate {
            device: device.clone(),
            user: device_entry.user.clone(),
            database: key.database.clone(),
            id: key.id.clone(),
            query: Arc::clone(query),
        })
    }

    fn apply(&mut self, event: &Event) {
        let (Stream::Device(id) | Stream::Subscriptions(id)) = &event.stream else {
            return;
        };
        match &event.body {
            EventBody::DeviceRegistered(state) => {
                if let Some(device) = self.devices.get_mut(id) {
                    device.user.clone_from(&state.user);
                }
            }
            EventBody::DeviceUnregistered(_) => {
                if let Some(device) = self.devices.get_mut(id) {
                    device.user = None;
                }
            }
            EventBody::DeviceDeleted(_) => {
                let device = self.devices.remove(id);
                for (key, entry) in device.into_iter().flat_map(|device| device.subscriptions) {
                    self.unlist(id, &key, &entry);
                }
            }
            EventBody::SubscriptionSaved(saved) => {
                let SavedSubscription {
                    subscriber,
                    subscription,
                } = saved.clone();
                self.put(id, (subscriber, subscription), event.position);
                self.device(id, || None).version = event.version;
            }
            EventBody::SubscriptionDeleted(key) => {
                let Some(device) = self.devices.get_mut(id) else {
                    return;
                };
                device.version = event.version;
                if let Some(entry) = device.subscriptions.remove(key) {
                    self.unlist(id, key, &entry);
                }
            }
            _ => {}
        }
    }

    fn device(&mut self, id: &DeviceId, user: impl FnOnce() -> Option<UserId>) -> &mut Device {
        self.devices.entry(id.clone()).or_insert_with(|| Device {
            user: user(),
            version: 0,
            subscriptions: BTreeMap::new(),
        })
    }

    fn put(
        &mut self,
        id: &DeviceId,
        (user, subscription): (Option<UserId>, Subscription),
        since: u64,
    ) {
        let key = subscription.key.clone();
        let query = subscription.parse_query().map(|query| Query {
            sort: Vec::new(),
            include: BTreeMap::new(),
            desired_keys: None,
            ..query
        });
        let query = query.map(Arc::new);
        let entry = Entry {
            subscription: Arc::new(subscription),
            query: query.clone(),
            since,
        };
        let device = self.device(id, || user);
        if let Some(before) = device.subscriptions.insert(key.clone(), entry) {
            self.unlist(id, &key, &before);
        }
        if let Some(query) = query {
            let of_type = self.by_type.entry(query.record_type.clone()).or_default();
            let listing = of_type.entry(key.database.clone()).or_default();
            listing.add(&Arc::new((id.clone(), key)), &query);
        }
    }

    fn unlist(&mut self, id: &DeviceId, key: &SubscriptionKey, entry: &Entry) {
        let Some(query) = &entry.query else { return };
        let Some(of_type) = self.by_type.get_mut(&query.record_type) else {
            return;
        };
        if let Some(listing) = of_type.get_mut(&key.database) {
            listing.remove(&Arc::new((id.clone(), key.clone())), query);
            if listing.len() == 0 {
                of_type.remove(&key.database);
            }
        }
        if of_type.is_empty() {
            self.by_type.remove(&query.record_type);
        }
    }
}

#[cfg(test)]
mod tests;
