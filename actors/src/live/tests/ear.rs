//! A listener, and what it has put together from what it was told.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use serde_json::{Value as Json, json};
use skytrail_schema::query::Scope;

use super::super::{Audience, Connected, Credential, LiveQueries, LiveQuery, Subscribe};
use crate::log::Timeline;

/// The ear's name for its query.
const NAME: &str = "q";

#[derive(Debug)]
pub(super) struct Ear {
    pub(super) name: String,
    pub(super) audience: Audience,
    pub(super) query: Json,
    connected: Option<Connected>,
    /// The result as it was told.
    pub(super) records: BTreeMap<String, Json>,
    /// What follows a reset or the beginning, until the result is complete.
    arriving: Option<BTreeMap<String, Json>>,
    position: Option<u64>,
    /// The ear has come back, and has not been told yet everything that it missed. Until then a
    /// record may leave that it never had.
    is_returning: bool,
    /// The ear lost its connection before that. It was not told that some records may be read
    /// again, so one may change without having entered.
    was_cut: bool,
    /// The ear has ended its query and waits for the confirmation.
    is_ending: bool,
    /// The ear's query has failed, for a reason that passes.
    pub(super) has_failed: bool,
    /// Everything that the ear was told, to be shown if something is wrong.
    pub(super) heard: Vec<String>,
}

impl Ear {
    pub(super) fn new(name: String, audience: Audience, query: Json) -> Self {
        Self {
            name,
            audience,
            query,
            connected: None,
            records: BTreeMap::new(),
            arriving: None,
            position: None,
            is_returning: false,
            was_cut: false,
            is_ending: false,
            has_failed: false,
            heard: Vec::new(),
        }
    }

    pub(super) fn parsed(&self) -> LiveQuery {
        LiveQuery::parse(self.query.as_object().unwrap(), Scope::Public).unwrap()
    }

    fn subscribe(&mut self, service: &LiveQueries) {
        let id = self.connected.as_ref().unwrap().id;
        self.arriving = None;
        if self.position.is_none() {
            self.records.clear();
        }
        self.was_cut = self.is_returning;
        self.is_returning = self.position.is_some();
        self.heard.push(format!("from {:?}", self.position));
        let subscription = Subscribe {
            name: NAME.into(),
            query: self.parsed(),
            from: self
                .position
                .map(|position| Timeline::default().at(position)),
        };
        service.subscribe(id, subscription).unwrap();
    }

    pub(super) fn connect(&mut self, service: &LiveQueries) {
        if self.connected.is_none() {
            let connected = service.connect(self.audience.clone(), Credential::default());
            self.connected = Some(connected);
            self.subscribe(service);
        } else if self.has_failed {
            self.has_failed = false;
            self.subscribe(service);
        }
    }

    /// Loses the connection; what is in the queue has not been received.
    pub(super) fn disconnect(&mut self, service: &LiveQueries) {
        if let Some(connected) = self.connected.take() {
            service.disconnect(connected.id);
            self.is_ending = false;
            self.has_failed = false;
            self.heard.push("lost".to_owned());
        }
    }

    /// Ends the query and begins it again over the same connection.
    pub(super) fn ask_again(&mut self, service: &LiveQueries) {
        if self.connected.is_some() && !self.is_ending && !self.has_failed {
            let id = self.connected.as_ref().unwrap().id;
            if service.unsubscribe(id, NAME) {
                self.is_ending = true;
                self.subscribe(service);
            } else {
                while self.hear() {}
                assert!(self.has_failed, "ended without a word: {}", self.name);
            }
        }
    }

    /// Takes a frame, if there is one.
    pub(super) fn hear(&mut self) -> bool {
        let Some(connected) = &mut self.connected else {
            return false;
        };
        let Some(Some(frame)) = connected.inbox.next().now_or_never() else {
            return false;
        };
        self.heard.push(frame.text().to_owned());
        let frame: Json = serde_json::from_str(frame.text()).unwrap();
        if self.is_ending {
            self.is_ending = frame["event"] != "end";
        } else {
            self.take(&frame);
        }
        true
    }

    fn take(&mut self, frame: &Json) {
        let record = &frame["record"];
        let id = || record["_id"].as_str().unwrap().to_owned();
        let expect = |is_so: bool, what: &str| {
            assert!(is_so, "{what}: {}\n{}", self.name, self.heard.join("\n"));
        };
        match frame["event"].as_str().unwrap() {
            "result" => {
                let arriving = self.arriving.get_or_insert_default();
                let records = frame["records"].as_array().unwrap().iter().cloned();
                arriving.extend(
                    records.map(|record| (record["_id"].as_str().unwrap().to_owned(), record)),
                );
            }
            "ready" => {
                if let Some(arrived) = self.arriving.take() {
                    self.records = arrived;
                }
                (self.is_returning, self.was_cut) = (false, false);
            }
            "reset" => {
                self.arriving = Some(BTreeMap::new());
                self.position = None;
            }
            "enter" => {
                let before = self.records.insert(id(), record.clone());
                expect(before.is_none(), "entered twice");
            }
            "change" => {
                let before = self.records.insert(id(), record.clone());
                expect(
                    before.is_some() || self.was_cut,
                    "changed and never entered",
                );
            }
            "leave" => {
                let before = self.records.remove(&id());
                expect(
                    before.is_some() || self.is_returning,
                    "left and never entered",
                );
            }
            "error" => {
                let info = &frame["error"]["info"];
                expect(info["retry_after_ms"] == 1000, "an error that stays");
                expect(self.position.is_none(), "ended, and knew a result");
                self.has_failed = true;
            }
            other => expect(false, other),
        }
        if let Some(position) = frame["position"].as_u64() {
            let is_later = self.position.is_none_or(|before| before <= position);
            assert!(
                is_later,
                "backwards: {}\n{}",
                self.name,
                self.heard.join("\n")
            );
            self.position = Some(position);
        }
    }

    /// Checks that the ear knows exactly what a fresh result says.
    pub(super) fn check(&self, pages: &[String]) {
        let pages = pages.iter().map(|page| serde_json::from_str::<Json>(page));
        let records = pages.flat_map(|page| page.unwrap().as_array().unwrap().clone());
        let fresh: BTreeMap<String, Json> = records
            .map(|record| (record["_id"].as_str().unwrap().to_owned(), record))
            .collect();
        assert!(
            self.records == fresh && self.position.is_some(),
            "{}: {}\ninstead of {}\n{}",
            self.name,
            json!(self.records),
            json!(fresh),
            self.heard.join("\n")
        );
    }
}
