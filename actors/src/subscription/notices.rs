//! Telling devices of changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use async_trait::async_trait;
use lru::LruCache;
use serde_json::{Value as Json, json};
use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, EventBody, EventKind, Stream};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{Database, DeviceId, RecordId, UserId};
use skytrail_schema::predicate::{Condition, Context};
use skytrail_schema::record::Record;
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::TypeDefinition;

use super::lookups::look_up;
use super::matching::{match_condition, may_see};
use super::numbers::SequenceNumbers;
use super::{Candidate, Subscriptions};
use crate::accounts::admission::refuse_unverified;
use crate::budget::{Budget, MAX_COST};
use crate::delivery::Consumer;
use crate::hub::{Announce, Hub};
use crate::push::NoticePush;
use crate::record::env::RecordEnv;
use crate::record::{apply, as_of, past, read};
use crate::store::HeadSource as _;
use crate::yield_budget::YieldBudget;

/// Publishes a notice for every subscription that a change matches.
///
/// It has a number and the subscription's name, and nothing of the record. A connected device asks
/// again; others are woken up by a push.
pub struct Notices {
    env: RecordEnv,
    subscriptions: Arc<Subscriptions>,
    hub: Addr<Hub>,
    push: NoticePush,
    numbers: SequenceNumbers,
    num_notices: u64,
    /// Subscriptions that were held against changes.
    num_checks: u64,
    num_failures: u64,
    /// Changes that were not held against a subscription, because that would have cost too much.
    num_skipped: u64,
    /// Subscriptions for which that was logged lately.
    complained: LruCache<(DeviceId, String), ()>,
    yield_budget: YieldBudget,
    /// When it was last logged that notices are late.
    lag_logged: Option<Timestamp>,
}

/// Notices that are later than this are worth a warning, and degrade the server's health.
pub const MAX_NOTICE_LAG: Duration = Duration::from_secs(60);

/// How many subscriptions are remembered for which it was logged that they cost too much.
const MAX_COMPLAINED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// A record as it was, looked up when first needed.
enum Past {
    Unknown,
    Known(Option<Box<Record>>),
}

/// A subscription that is held against a change.
struct MatchCheck<'a> {
    candidate: &'a Candidate,
    caller: &'a Caller,
    /// Its condition, once it is needed; `Some(None)` if no record can fulfil it.
    condition: Option<Option<Condition>>,
    /// By user; by device if it has no user.
    budget: &'a mut Budget<String>,
}

/// What subscriptions are held against: fields have the names that they had at the time of the
/// change.
struct Terms {
    types: Vec<Arc<TypeDefinition>>,
    rules: Arc<FieldRules>,
    /// The position of the change, if names have changed since.
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
            num_checks: 0,
            num_failures: 0,
            num_skipped: 0,
            complained: LruCache::new(MAX_COMPLAINED),
            yield_budget: YieldBudget::default(),
            lag_logged: None,
        }
    }

    /// Logs, once a minute, that notices are late.
    fn note_lag(&mut self, commit: &Commit) {
        let now = self.env.clock.now();
        let is_over = |since: Timestamp| {
            let micros = u64::try_from(now.micros() - since.micros());
            micros.is_ok_and(|it| Duration::from_micros(it) > MAX_NOTICE_LAG)
        };
        if is_over(commit.time) && self.lag_logged.is_none_or(is_over) {
            self.lag_logged = Some(now);
            let seconds = (now.micros() - commit.time.micros()) / 1_000_000;
            tracing::warn!(
                seconds,
                position = commit.last_position(),
                subscriptions = self.subscriptions.len(),
                "subscribers are told of changes late"
            );
        }
    }

    async fn look_at(&mut self, id: &RecordId, event: &Event, number: u64) -> Result<(), ApiError> {
        let mut concerned = Vec::new();
        let mut done = None;
        let (_, named) = self.env.model.get_named_rules();
        if named.reshaped < event.position {
            let terms = Terms {
                types: read::involved(&self.env, &id.record_type),
                rules: Arc::clone(&named.rules),
                past: None,
            };
            let found = self.find_concerned((id, event), &terms, &mut concerned);
            let found = found.await;
            let (_, after) = self.env.model.get_named_rules();
            done = Some(found).filter(|_| after.reshaped == named.reshaped);
        }
        let done = match done {
            Some(done) => done,
            // By now a name may stand for another field: one that the subscription's owner may not
            // search, or may search now and was not allowed to then.
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

    /// Finds the subscriptions that a change concerns. If one fails, those before it have been
    /// found.
    async fn find_concerned(
        &mut self,
        (id, event): (&RecordId, &Event),
        terms: &Terms,
        concerned: &mut Vec<Candidate>,
    ) -> Result<(), ApiError> {
        let record = self.changed_record(id, event, terms).await?;
        if record.is_none() && event.body.kind() != EventKind::RecordDeleted {
            return Ok(());
        }
        let mut past = Past::Unknown;
        let mut failure = None;
        // What a subscription asks for may be in the state that the event ended.
        if let Some(record) = &record
            && self
                .subscriptions
                .is_selective(&id.record_type, &record.database)
        {
            failure = self.look_back(id, event, &mut past).await.err();
        }
        let states: Vec<&Record> = record.iter().chain(past.known()).collect();
        let candidates = self
            .subscriptions
            .candidates(&id.record_type, &states, event.position);
        self.num_checks += candidates.len() as u64;
        let mut callers = Callers::default();
        let mut budget = Budget::default();
        for candidate in candidates {
            let caller = callers.load(&self.env, candidate.user.as_ref()).await?;
            let condition =
                || match_condition(&candidate.query, caller, &terms.rules, &terms.types);
            let concerns = match &record {
                Some(record) => {
                    let mut check = MatchCheck {
                        candidate: &candidate,
                        caller,
                        condition: None,
                        budget: &mut budget,
                    };
                    self.concerns(&mut check, record, terms).await?
                        || match self.look_back(id, event, &mut past).await? {
                            Some(before) => self.concerns(&mut check, before, terms).await?,
                            None => false,
                        }
                }
                None => may_concern(&candidate, caller) && condition().is_some(),
            };
            if concerns {
                concerned.push(candidate);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Returns the record as it was before the event, if that may be different: an update can make
    /// it leave results that it was in.
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

    /// Returns the record as the event left it, or as it was before a deletion. `None` if that has
    /// been erased.
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
        // In memory, it has the present names.
        if terms.past.is_none() {
            let versions = [(id.key.clone(), event.position)];
            let cached = self.env.model.get_written(&id.record_type, &versions);
            if let Some(head) = cached.into_iter().next().flatten() {
                return Ok(Some(head.record.clone()));
            }
        }
        past::record_at(&self.env, id, event.position).await
    }

    async fn concerns(
        &mut self,
        check: &mut MatchCheck<'_>,
        record: &Record,
        terms: &Terms,
    ) -> Result<bool, ApiError> {
        let MatchCheck {
            candidate, caller, ..
        } = *check;
        if !may_see(caller, record) {
            return Ok(false);
        }
        let bind = || match_condition(&candidate.query, caller, &terms.rules, &terms.types);
        let Some(condition) = check.condition.get_or_insert_with(bind) else {
            return Ok(false);
        };
        let of = (record, terms.past);
        let lookups = look_up(&self.env, condition, of, caller).await?;
        let context = || Context {
            user: caller.user.as_ref(),
            lookups: &lookups,
        };
        let cost = condition.cost(record, context(), MAX_COST);
        let whose = candidate.user.as_ref().map(UserId::as_str);
        let whose = whose.unwrap_or(candidate.device.as_str());
        if check.budget.take(whose.to_owned(), cost).is_err() {
            self.skip(candidate);
            return Ok(false);
        }
        let is_found = condition.evaluate(record, context()) == Some(true);
        self.yield_budget.after(cost).await;
        Ok(is_found)
    }

    /// Counts that a subscription is not held against a change, and logs it unless that was logged
    /// lately.
    fn skip(&mut self, candidate: &Candidate) {
        self.num_skipped += 1;
        let (device, subscription) = (candidate.device.clone(), candidate.id.clone());
        if self.complained.put((device, subscription), ()).is_none() {
            tracing::warn!(
                device = %candidate.device,
                subscription = candidate.id,
                "a subscription is not told of a change: it would have to read too much of it"
            );
        }
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

impl Past {
    fn known(&self) -> Option<&Record> {
        match self {
            Self::Known(record) => record.as_deref(),
            Self::Unknown => None,
        }
    }
}

/// The owners of subscriptions as callers, each looked up once for a change.
#[derive(Default)]
struct Callers(HashMap<Option<UserId>, Caller>);

impl Callers {
    /// Returns a subscription's owner; a user who is locked out or has to be verified first counts
    /// as nobody.
    async fn load(&mut self, env: &RecordEnv, user: Option<&UserId>) -> Result<&Caller, ApiError> {
        match self.0.entry(user.cloned()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(open) => {
                let mut caller = Caller {
                    key: KeyKind::Client,
                    ..Caller::default()
                };
                if let Some(user) = user {
                    let now = env.clock.now();
                    let state = env.load_user(user).await?;
                    let enabled = state.filter(|state| state.check_enabled(now).is_ok());
                    if let Some(state) = enabled
                        && is_verified(env, user).await?
                    {
                        caller.user = Some(user.clone());
                        caller.roles = state.roles;
                    }
                }
                Ok(open.insert(caller))
            }
        }
    }
}

/// Whether a user may act, as far as it depends on being verified.
async fn is_verified(env: &RecordEnv, user: &UserId) -> Result<bool, ApiError> {
    if !env.model.requires_verification() {
        return Ok(true);
    }
    let (_, head) = env.load_head(&RecordId::user(user)).await?;
    Ok(refuse_unverified(head.as_ref().map(|head| &head.record)).is_ok())
}

/// Whether a subscription may be about a record of which nothing is left.
///
/// A device that has the record must hear that it is gone, so rather too many are told: the notice
/// says nothing of the record, and a device that asks again finds what it may see.
fn may_concern(candidate: &Candidate, caller: &Caller) -> bool {
    match &candidate.database {
        Database::Public => true,
        Database::Private(owner) => caller.user.as_ref() == Some(owner),
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
            self.note_lag(commit);
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
            "num_checks": self.num_checks,
            "num_failures": self.num_failures,
            "num_skipped": self.num_skipped,
        })
    }
}
