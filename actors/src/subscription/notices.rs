//! Telling devices of changes.

use std::sync::Arc;

use actix::Addr;
use async_trait::async_trait;
use serde_json::{Value as Json, json};
use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, EventBody, EventKind, Stream};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{Database, RecordId, UserId};
use skytrail_schema::predicate::Context;
use skytrail_schema::record::Record;
use skytrail_schema::types::TypeDefinition;

use super::around::Around;
use super::matching::{may_see, wanted};
use super::numbers::SequenceNumbers;
use super::{Candidate, Subscriptions};
use crate::accounts::admission::refuse_disabled;
use crate::delivery::Consumer;
use crate::hub::{Announce, Hub};
use crate::push::NoticePush;
use crate::record::env::RecordEnv;
use crate::record::{apply, as_of, past, read};
use crate::store::HeadSource as _;

/// Publishes a notice for every subscription that a change matches: its number and the
/// subscription's name, nothing of the record. Who listens asks again; who does not is woken up by
/// a push.
pub struct Notices {
    env: RecordEnv,
    subscriptions: Arc<Subscriptions>,
    hub: Addr<Hub>,
    push: NoticePush,
    numbers: SequenceNumbers,
    num_notices: u64,
    num_failures: u64,
}

/// A record as it was, looked up when somebody asks.
enum Past {
    Unknown,
    Known(Option<Box<Record>>),
}

/// What subscriptions are held against: fields have the names that they had when something changed.
struct Terms {
    types: Vec<Arc<TypeDefinition>>,
    rules: Arc<FieldRules>,
    /// The position of the change, when names are others by now.
    past: Option<u64>,
}

impl Notices {
    /// Builds the consumer; `hub` is the internal one.
    pub fn new(
        env: RecordEnv,
        subscriptions: Arc<Subscriptions>,
        hub: Addr<Hub>,
        push: NoticePush,
    ) -> Self {
        Self {
            numbers: SequenceNumbers::default(),
            env,
            subscriptions,
            hub,
            push,
            num_notices: 0,
            num_failures: 0,
        }
    }

    async fn look_at(&mut self, id: &RecordId, event: &Event, number: u64) -> Result<(), ApiError> {
        let mut concerned = Vec::new();
        let mut done = None;
        let (_, named) = self.env.live.get_named_rules();
        if named.reshaped < event.position {
            let terms = Terms {
                types: read::involved(&self.env, &id.record_type),
                rules: Arc::clone(&named.rules),
                past: None,
            };
            let found = self.find_concerned((id, event), &terms, &mut concerned);
            let found = found.await;
            let (_, after) = self.env.live.get_named_rules();
            done = Some(found).filter(|_| after.reshaped == named.reshaped);
        }
        let done = match done {
            Some(done) => done,
            // A name says another field by now: one that the subscription's owner may not search, or
            // may and might not then.
            None => {
                concerned.clear();
                let (name, position) = (&id.record_type, event.position);
                let (types, rules) = as_of::terms_at(&self.env, name, position).await?;
                let past = Some(position);
                let terms = Terms { types, rules, past };
                self.find_concerned((id, event), &terms, &mut concerned)
                    .await
            }
        };
        for candidate in concerned {
            self.publish(candidate, number).await?;
        }
        done
    }

    /// Finds the subscriptions that a change concerns; those before one that fails are found.
    async fn find_concerned(
        &self,
        (id, event): (&RecordId, &Event),
        terms: &Terms,
        concerned: &mut Vec<Candidate>,
    ) -> Result<(), ApiError> {
        let record = self.changed_record(id, event, terms).await?;
        if record.is_none() && event.body.kind() != EventKind::RecordDeleted {
            return Ok(());
        }
        let database = record.as_ref().map(|record| &record.database);
        let candidates = self
            .subscriptions
            .candidates(&id.record_type, database, event.position);
        let mut past = Past::Unknown;
        for candidate in candidates {
            let concerns = match &record {
                Some(record) => {
                    self.concerns(&candidate, record, terms).await?
                        || match self.look_back(id, event, &mut past).await? {
                            Some(before) => self.concerns(&candidate, before, terms).await?,
                            None => false,
                        }
                }
                None => self.may_concern(&candidate, terms).await?,
            };
            if concerns {
                concerned.push(candidate);
            }
        }
        Ok(())
    }

    /// Returns the record as it was before the event, if that may be something else: by an update
    /// it leaves the results that it was in.
    async fn look_back<'a>(
        &self,
        id: &RecordId,
        event: &Event,
        past: &'a mut Past,
    ) -> Result<Option<&'a Record>, ApiError> {
        let kind = event.body.kind();
        if matches!(kind, EventKind::RecordCreated | EventKind::RecordDeleted) {
            return Ok(None);
        }
        if matches!(past, Past::Unknown) {
            let before = past::record_at(&self.env, id, event.position - 1).await?;
            *past = Past::Known(before.map(Box::new));
        }
        match past {
            Past::Known(before) => Ok(before.as_deref()),
            Past::Unknown => Ok(None),
        }
    }

    /// Returns the record as the event left it; as it was before when it is deleted. `None` when that
    /// has been erased.
    async fn changed_record(
        &self,
        id: &RecordId,
        event: &Event,
        terms: &Terms,
    ) -> Result<Option<Record>, ApiError> {
        match &event.body {
            EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => {
                return Ok(Some(apply::full(id, state)));
            }
            body if body.kind() == EventKind::RecordDeleted => {
                return past::whole_record_at(&self.env, id, event.position - 1).await;
            }
            _ => {}
        }
        // In memory it has the names of now.
        if terms.past.is_none() {
            let wanted = [(id.key.clone(), event.position)];
            let known = self.env.live.get_written(&id.record_type, &wanted);
            if let Some(head) = known.into_iter().next().flatten() {
                return Ok(Some(head.record.clone()));
            }
        }
        past::record_at(&self.env, id, event.position).await
    }

    async fn concerns(
        &self,
        candidate: &Candidate,
        record: &Record,
        terms: &Terms,
    ) -> Result<bool, ApiError> {
        let caller = self.caller(candidate.user.as_ref()).await?;
        if !may_see(&caller, record) {
            return Ok(false);
        }
        let Some(condition) = wanted(&candidate.query, &caller, &terms.rules, &terms.types) else {
            return Ok(false);
        };
        let of = (record, terms.past);
        let context = Context {
            user: caller.user.as_ref(),
            around: &Around::load(&self.env, &condition, of, &caller).await?,
        };
        Ok(condition.evaluate(record, context) == Some(true))
    }

    /// Whether a subscription may be about a record of which nothing is left. Who has it must hear that
    /// it is gone, so rather more are told than it concerns: a notice says nothing of it, and who asks
    /// again finds what he may see.
    async fn may_concern(&self, candidate: &Candidate, terms: &Terms) -> Result<bool, ApiError> {
        let caller = self.caller(candidate.user.as_ref()).await?;
        let is_his = match &candidate.database {
            Database::Public => true,
            Database::Private(owner) => caller.user.as_ref() == Some(owner),
        };
        Ok(is_his && wanted(&candidate.query, &caller, &terms.rules, &terms.types).is_some())
    }

    /// Returns the subscription's owner as a caller; one who is locked out is nobody.
    async fn caller(&self, user: Option<&UserId>) -> Result<Caller, ApiError> {
        let mut caller = Caller {
            key: KeyKind::Client,
            ..Caller::default()
        };
        let Some(user) = user else { return Ok(caller) };
        let now = self.env.clock.now();
        let state = self.env.load_user(user).await?;
        if let Some(state) = state.filter(|state| refuse_disabled(state, now).is_ok()) {
            caller.user = Some(user.clone());
            caller.roles = state.roles;
        }
        Ok(caller)
    }

    async fn publish(&mut self, candidate: Candidate, number: u64) -> Result<(), ApiError> {
        self.push.notify(&candidate.device, &candidate.id, number);
        let channel = format!("_sub_{}", candidate.device);
        let notice = json!({"seq-num": number, "subscription-id": &candidate.id});
        let announce = Announce::new(channel, candidate.id, &notice);
        let announce = announce.map_err(|error| ApiError::unexpected(error.to_string()))?;
        let published = self.hub.send(announce).await;
        published.map_err(|_| ApiError::overloaded("the hub"))?;
        self.num_notices += 1;
        Ok(())
    }
}

#[async_trait]
impl Consumer for Notices {
    fn is_idle(&self) -> bool {
        self.subscriptions.is_empty()
    }

    async fn take(&mut self, commit: &Commit) {
        for event in &commit.events {
            let Stream::Record(id) = &event.stream else {
                continue;
            };
            let number = self.numbers.next(commit.time, event.position);
            if !self.subscriptions.has_any(&id.record_type) {
                continue;
            }
            if let Err(error) = self.look_at(id, event, number).await {
                self.num_failures += 1;
                tracing::warn!(%error, position = event.position, "notices of a change are lost");
            }
        }
    }

    fn state(&self) -> Json {
        json!({
            "num_subscriptions": self.subscriptions.len(),
            "num_notices": self.num_notices,
            "num_failures": self.num_failures,
        })
    }
}
