//! Devices and subscriptions: a device is notified of changes that its user may see and find, and
//! of nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::compare::{Check, refused, same};
use super::model::{Gate, Model, Rec, Records, Refusal, Scope, Viewer};
use super::ops::{DEVICES, Db, Subscribed, Who};
use super::search::Search;
use super::world::{Reply, World};
use crate::support::server::MASTER_KEY;
use crate::support::socket::{Incoming, Socket};

const NO_UNION: Refusal = Refusal(
    501,
    112,
    "subscription on union database is not implemented",
);
const NO_DEVICE: Refusal = Refusal(404, 110, "Device not found");
/// A type whose records only show that everything before them has been processed.
const MARK: &str = "mark";

/// A device, in the model.
#[derive(Clone, Debug, Default)]
pub struct Device {
    user: Option<String>,
    /// By database, as for records, and name.
    subscriptions: BTreeMap<(String, String), Search>,
}

impl Device {
    /// Returns whether the caller may use it; for others it does not exist.
    fn is_of(&self, viewer: &Viewer) -> bool {
        viewer.master || (self.user.is_some() && self.user == viewer.user)
    }
}

impl Model {
    /// Returns the subscriptions, with their devices, that a changed record concerns.
    fn concerned(&self, record: &Rec) -> Vec<(usize, String)> {
        let mut all = Vec::new();
        for (number, device) in self.devices.iter().enumerate() {
            let user = device
                .user
                .clone()
                .filter(|user| !self.users[user].disabled);
            let viewer = Viewer {
                master: false,
                roles: user
                    .as_ref()
                    .map(|user| self.users[user].roles.clone())
                    .unwrap_or_default(),
                user,
            };
            for ((database, name), search) in &device.subscriptions {
                let is_there = *database == record.database && search.kind == record.kind;
                if is_there && self.tells(&viewer, search, record) {
                    all.push((number, name.clone()));
                }
            }
        }
        all
    }

    fn tells(&self, viewer: &Viewer, search: &Search, record: &Rec) -> bool {
        let scope = match record.database.as_str() {
            "" => Scope::Public,
            user if viewer.user.as_deref() == Some(user) => Scope::Private(user.to_owned()),
            _ => return false,
        };
        let sees =
            self.in_sight(viewer, &scope, record) && self.forbidden(viewer, search).is_none();
        let predicate = search.predicate.as_ref();
        sees && predicate.is_none_or(|it| it.holds(self, viewer, &scope, record) == Some(true))
    }
}

/// A socket that receives the notices of all devices.
pub struct Ear {
    socket: Socket,
    /// The device that is notified of marks.
    marked: String,
    num_marks: u64,
}

impl World {
    /// Registers the devices and listens to them.
    pub fn bring_devices(&mut self) -> Check {
        for device in 0..DEVICES {
            self.model.devices.push(Device::default());
            self.devices.push(String::new());
            self.register(Who::User(device), device)?;
        }
        let marked = self.settled("device:register", json!({"type": "ios"}))?;
        let marked = marked["id"].as_str().unwrap().to_owned();
        self.mark(0)?;
        let query = json!({"record_type": MARK});
        let subscription = json!({"id": MARK, "type": "query", "query": query});
        let body = json!({"device_id": marked, "subscriptions": [subscription]});
        self.settled("subscription:save", body)?;
        let path = format!("/_/pubsub?api_key={MASTER_KEY}");
        let socket = Socket::open(self.server.address(), &path, &[]);
        let mut socket = socket.map_err(|refused| format!("the hub is closed: {refused:?}"))?;
        for device in self.devices.iter().chain([&marked]) {
            let subscription = json!({"action": "sub", "channel": format!("_sub_{device}")});
            socket.send(&subscription.to_string());
        }
        // A socket that has received its own message is subscribed.
        let probe = json!({"action": "pub", "channel": format!("_sub_{marked}"), "data": 0});
        socket.send(&probe.to_string());
        self.ear = Some(Ear {
            socket,
            marked,
            num_marks: 0,
        });
        self.next_notice().map(|_| ())
    }

    /// Calls an action with the master key, which must succeed.
    fn settled(&mut self, action: &str, body: Json) -> Result<Json, String> {
        let reply = self.ask(Who::Master, action, body)?;
        self.enter(Who::Master, Gate::User)
            .map_err(|it| format!("{it:?}"))?;
        if reply.status == 200 {
            Ok(reply.body["result"].clone())
        } else {
            Err(format!("{action}: {reply:?}"))
        }
    }

    fn mark(&mut self, number: u64) -> Check {
        let record = json!({"_id": format!("{MARK}/1"), "n": number});
        self.settled("record:save", json!({"records": [record]}))?;
        Ok(())
    }

    /// Waits until every change has been processed, and compares the notices with the expected
    /// ones: for records in a subscription's result now, and for those that were in it before.
    pub fn hear(&mut self, changed: &[Rec], before: &Records) -> Check {
        let Some(ear) = &mut self.ear else {
            return Ok(());
        };
        ear.num_marks += 1;
        let (number, marked) = (ear.num_marks, ear.marked.clone());
        self.mark(number)?;
        let mut heard = Vec::new();
        loop {
            let (device, name) = self.next_notice()?;
            if device == marked {
                break;
            }
            let number = self.devices.iter().position(|known| *known == device);
            heard.push((number.ok_or("an unknown device")?, name));
        }
        let concerned = |record: &Rec| {
            let was = before.get(&(record.kind.clone(), record.key.clone()));
            let states = was.into_iter().chain([record]);
            let all = states.flat_map(|state| self.model.concerned(state));
            all.collect::<BTreeSet<_>>()
        };
        let mut expected: Vec<_> = changed.iter().flat_map(concerned).collect();
        expected.sort();
        heard.sort();
        same("notices", &json!(expected), &json!(heard))
            .map_err(|why| format!("{why}, of {changed:?}"))
    }

    /// Returns the next notice: the device and the subscription's name.
    fn next_notice(&mut self) -> Result<(String, String), String> {
        let ear = self.ear.as_mut().ok_or("nobody listens")?;
        let text = match ear.socket.receive(Duration::from_secs(20)) {
            Incoming::Text(text) => text,
            other => return Err(format!("no notice comes: {other:?}")),
        };
        let notice: Json = serde_json::from_str(&text).map_err(|_| text.clone())?;
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let channel = text(&notice["channel"]);
        let device = channel.strip_prefix("_sub_").unwrap_or(&channel).to_owned();
        Ok((device, text(&notice["data"]["subscription-id"])))
    }

    pub fn register(&mut self, who: Who, device: usize) -> Check {
        let known = self.devices[device].clone();
        let reply = self.ask(who, "device:register", json!({"type": "ios", "id": known}))?;
        match self.enter(who, Gate::User) {
            Err(refusal) => refused(&reply, &refusal),
            Ok(viewer) => {
                let id = reply.body["result"]["id"].as_str().unwrap_or_default();
                self.devices[device] = id.to_owned();
                let owned = &mut self.model.devices[device];
                if owned.user != viewer.user {
                    owned.subscriptions.clear();
                }
                owned.user = viewer.user;
                let is_same = !id.is_empty() && (known.is_empty() || id == known);
                is_same
                    .then_some(())
                    .ok_or_else(|| format!("registered: {reply:?}"))
            }
        }
    }

    pub fn unregister(&mut self, who: Who, device: usize) -> Check {
        let id = self.devices[device].clone();
        let reply = self.ask(who, "device:unregister", json!({"id": id}))?;
        match self.enter(who, Gate::User) {
            Err(refusal) => refused(&reply, &refusal),
            Ok(viewer) if self.model.devices[device].is_of(&viewer) => {
                self.model.devices[device].user = None;
                same("unregistered", &json!({"id": id}), &reply.body["result"])
            }
            Ok(_) => refused(&reply, &NO_DEVICE),
        }
    }

    pub fn subscribe(
        &mut self,
        at: (Who, Db),
        (device, name): (usize, usize),
        subscribed: &Subscribed,
    ) -> Check {
        let search = self.subscription(subscribed);
        let name = format!("s{name}");
        let subscription = json!({"id": name, "type": "query", "query": search.wire()});
        let body = json!({"subscriptions": [subscription]});
        let (reply, place) = self.ask_device("subscription:save", at, (device, body))?;
        let Some((database, belongs_to_user)) = place else {
            return Ok(());
        };
        let item = &reply.body["result"][0];
        if !belongs_to_user {
            return same("code", &json!(10000), &item["code"]);
        }
        same("saved", &json!(name), &item["id"])?;
        let device = &mut self.model.devices[device];
        device.subscriptions.insert((database, name), search);
        Ok(())
    }

    pub fn unsubscribe(&mut self, at: (Who, Db), (device, name): (usize, usize)) -> Check {
        let name = format!("s{name}");
        let body = json!({"subscription_ids": [name]});
        let (reply, place) = self.ask_device("subscription:delete", at, (device, body))?;
        let Some((database, belongs_to_user)) = place else {
            return Ok(());
        };
        let known = &mut self.model.devices[device].subscriptions;
        let item = &reply.body["result"][0];
        let ended = belongs_to_user.then(|| known.remove(&(database, name.clone())));
        match ended.flatten() {
            Some(_) => same("deleted", &json!({"id": name}), item),
            None => same("code", &json!(110), &item["code"]),
        }
    }

    pub fn list_subscriptions(&mut self, at: (Who, Db), device: usize) -> Check {
        let (reply, place) = self.ask_device("subscription:fetch_all", at, (device, json!({})))?;
        let Some((database, belongs_to_user)) = place else {
            return Ok(());
        };
        let known = self.model.devices[device].subscriptions.keys();
        let names = known
            .filter(|(of, _)| belongs_to_user && *of == database)
            .map(|(_, name)| name);
        let listed = reply.body["result"].as_array();
        let listed = listed.map(|all| all.iter().map(|it| it["id"].clone()).collect::<Vec<_>>());
        same("listed", &json!(names.collect::<Vec<_>>()), &json!(listed))
    }

    /// Calls an action on a device. Returns the database that it is about and whether the device is
    /// the caller's; `None` if the request was refused as it must be.
    fn ask_device(
        &mut self,
        action: &str,
        (who, db): (Who, Db),
        (device, mut body): (usize, Json),
    ) -> Result<(Reply, Option<(String, bool)>), String> {
        body["device_id"] = json!(self.devices[device]);
        body["database_id"] = json!(self.database(db));
        let reply = self.ask(who, action, body)?;
        let database = match self.enter_database(who, Gate::User, db) {
            Err(refusal) => Err(refusal),
            Ok((_, Scope::Union)) => Err(NO_UNION),
            Ok((viewer, Scope::Public)) => Ok((viewer, String::new())),
            Ok((viewer, Scope::Private(user))) => Ok((viewer, user)),
        };
        match database {
            Ok((viewer, database)) => {
                let belongs_to_user = self.model.devices[device].is_of(&viewer);
                Ok((reply, Some((database, belongs_to_user))))
            }
            Err(refusal) => refused(&reply, &refusal).map(|()| (reply, None)),
        }
    }

    fn subscription(&self, subscribed: &Subscribed) -> Search {
        Search {
            kind: subscribed.kind.to_owned(),
            predicate: subscribed.cond.as_ref().map(|cond| self.predicate(cond)),
            sort: Vec::new(),
            include: Vec::new(),
            desired: None,
            count: false,
            limit: None,
            offset: 0,
        }
    }
}
