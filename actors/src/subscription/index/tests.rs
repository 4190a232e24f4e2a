//! The index after any events equals the one that is built from what is left.

use proptest::prelude::*;
use serde_json::json;
use skytrail_schema::event::{Actor, ChangeStamp, DeviceKind, DeviceState};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::*;

const TYPES: [&str; 3] = ["note", "page", "room"];

#[derive(Clone, Debug)]
enum Step {
    Save(u8, u8, usize, bool),
    Delete(u8, u8, bool),
    Register(u8, u8),
    Unregister(u8),
    Forget(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0_u8..3;
    let id = || 0_u8..3;
    prop_oneof![
        4 => (device(), id(), 0..TYPES.len(), any::<bool>())
            .prop_map(|(device, id, kind, private)| Step::Save(device, id, kind, private)),
        2 => (device(), id(), any::<bool>())
            .prop_map(|(device, id, private)| Step::Delete(device, id, private)),
        1 => (device(), 0_u8..3).prop_map(|(device, user)| Step::Register(device, user)),
        1 => device().prop_map(Step::Unregister),
        1 => device().prop_map(Step::Forget),
    ]
}

fn database(is_private: bool) -> Database {
    if is_private {
        Database::Private("u0".into())
    } else {
        Database::Public
    }
}

fn subscription(id: u8, kind: usize, is_private: bool) -> Subscription {
    let query = json!({"record_type": TYPES[kind]});
    let wire = json!({"id": format!("s{id}"), "type": "query", "query": query});
    Subscription::from_wire(&wire, database(is_private)).unwrap()
}

/// What devices subscribe to, worked out by other means.
#[derive(Default)]
struct Model(BTreeMap<DeviceId, (Option<UserId>, BTreeMap<SubscriptionKey, Subscription>)>);

impl Model {
    fn take(&mut self, step: &Step) -> (Stream, EventBody) {
        let id = |device: &u8| DeviceId::from(format!("d{device}"));
        let user = |number: u8| Some(UserId::from(format!("u{number}")));
        match step {
            Step::Save(device, number, kind, is_private) => {
                let subscription = subscription(*number, *kind, *is_private);
                let device_entry = self
                    .0
                    .entry(id(device))
                    .or_insert((user(9), BTreeMap::new()));
                let key = subscription.key.clone();
                device_entry.1.insert(key, subscription.clone());
                let subscriber = device_entry.0.clone();
                let saved = SavedSubscription {
                    subscriber,
                    subscription,
                };
                let stream = Stream::Subscriptions(id(device));
                (stream, EventBody::SubscriptionSaved(saved))
            }
            Step::Delete(device, number, is_private) => {
                let key = subscription(*number, 0, *is_private).key;
                if let Some(device_entry) = self.0.get_mut(&id(device)) {
                    device_entry.1.remove(&key);
                }
                (
                    Stream::Subscriptions(id(device)),
                    EventBody::SubscriptionDeleted(key),
                )
            }
            Step::Register(device, number) => {
                if let Some(device_entry) = self.0.get_mut(&id(device)) {
                    device_entry.0 = user(*number);
                }
                let state = DeviceState {
                    user: user(*number),
                    kind: DeviceKind::Ios,
                    token: None,
                    topic: None,
                    registered_at: Timestamp::from_micros(0),
                };
                (
                    Stream::Device(id(device)),
                    EventBody::DeviceRegistered(state),
                )
            }
            Step::Unregister(device) => {
                if let Some(device_entry) = self.0.get_mut(&id(device)) {
                    device_entry.0 = None;
                }
                let body = EventBody::DeviceUnregistered(ChangeStamp::default());
                (Stream::Device(id(device)), body)
            }
            Step::Forget(device) => {
                self.0.remove(&id(device));
                let body = EventBody::DeviceDeleted(ChangeStamp::default());
                (Stream::Device(id(device)), body)
            }
        }
    }

    fn stored(&self) -> Vec<SubscribedDevice> {
        let device =
            |(id, (user, device_entry)): (&DeviceId, &(Option<UserId>, BTreeMap<_, _>))| {
                SubscribedDevice {
                    id: id.clone(),
                    user: user.clone(),
                    version: 1,
                    subscriptions: device_entry.values().cloned().collect(),
                }
            };
        self.0.iter().map(device).collect()
    }
}

fn commit(position: u64, (stream, body): (Stream, EventBody)) -> Arc<Commit> {
    Arc::new(Commit {
        id: Uuid::from_u128(position.into()),
        time: Timestamp::from_micros(0),
        epoch: 1,
        actor: Actor::default(),
        request_id: None,
        causation: None,
        sql: None,
        events: vec![Event {
            position,
            stream,
            version: 1,
            body,
            provenance: Vec::new(),
            payload_hash: [0; 32],
        }],
        chain: [0; 32],
    })
}

/// Everything that a subscription's owner could notice, in order.
fn seen(index: &Subscriptions) -> Vec<String> {
    let mut seen = vec![format!("{} {}", index.len(), index.is_empty())];
    for name in TYPES {
        for is_private in [false, true] {
            let found = index.candidates(&name.into(), Some(&database(is_private)), u64::MAX);
            let found = found.iter().map(|it| {
                let user = it.user.as_ref();
                format!("{name} {is_private} {} {user:?} {}", it.device, it.id)
            });
            seen.extend(found);
        }
    }
    for device in 0..3 {
        let device = DeviceId::from(format!("d{device}"));
        for is_private in [false, true] {
            let (user, listed) = index.list(&device, &database(is_private));
            seen.extend(listed.iter().map(|it| format!("{device} {it:?}")));
            for it in listed {
                let found = index.get(&device, &it.key);
                assert_eq!(found, Some((user.clone(), it)));
            }
        }
    }
    seen
}

proptest! {
    #[test]
    fn what_events_left_is_what_is_loaded(steps in prop::collection::vec(step(), 0..40)) {
        let (index, mut model) = (Subscriptions::default(), Model::default());
        for (position, step) in (1..).zip(&steps) {
            index.committed(&[commit(position, model.take(step))]);
        }
        let loaded = Subscriptions::new(model.stored());
        prop_assert_eq!(seen(&index), seen(&loaded));
    }
}

#[test]
fn changes_from_before_do_not_concern_a_subscription() {
    let index = Subscriptions::default();
    let event = Model::default().take(&Step::Save(0, 0, 0, false));
    index.committed(&[commit(7, event)]);
    let at = |position| {
        index
            .candidates(&"note".into(), Some(&Database::Public), position)
            .len()
    };
    assert_eq!([at(6), at(7), at(8)], [0, 0, 1]);
}
