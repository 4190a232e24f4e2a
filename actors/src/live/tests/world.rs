//! Everything that live queries meet, each part of which moves only when the schedule says so: what
//! is committed, what the store has applied, what the follower has seen, which read returns first.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use serde_json::{Value as Json, json};
use skytrail_schema::acl::Acl;
use skytrail_schema::event::{
    ChangeStamp, Commit, EventBody, FieldRename, RecordPatch, RecordState, Stream, TypeExtension,
    UserPatch, UserState,
};
use skytrail_schema::field_access::{FieldAccess, FieldAccessEntry, FieldUserRole};
use skytrail_schema::id::{RecordId, TypeName, UserId};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::FieldType;
use tokio::sync::mpsc;

use super::super::load::load;
use super::super::{Audience, LiveFollower, LiveQueries, LiveSettings};
use super::ear::Ear;
use super::store::{ModelLog, ModelStore};
use crate::asset::AssetUrls;
use crate::delivery::Consumer as _;
use crate::log::{CommitObserver as _, Timeline};
use crate::plugin::NoPlugins;
use crate::record::env::RecordEnv;
use crate::spawn::spawn_named;

/// More than any chain of wakeups that one step sets off.
const ROUNDS: usize = 60;

/// Is asked for the addresses of files while records are written.
#[derive(Default)]
pub(super) struct Urls {
    service: OnceLock<LiveQueries>,
    /// Whether the lock was taken then.
    pub(super) was_locked: Mutex<Vec<bool>>,
}

impl AssetUrls for Urls {
    fn url_of(&self, _: &str) -> Option<String> {
        let service = self.service.get()?;
        self.was_locked.lock().push(service.is_locked());
        None
    }
}

pub(super) struct World {
    pub(super) service: LiveQueries,
    pub(super) env: RecordEnv,
    pub(super) urls: Arc<Urls>,
    log: Arc<ModelLog>,
    pub(super) store: Arc<ModelStore>,
    to_follow: mpsc::UnboundedSender<Arc<Commit>>,
    /// How many commits the follower was given.
    num_given: usize,
}

impl World {
    /// `max_bytes` is what can be kept in memory: if it is zero, reads go to the store.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self::telling(max_bytes, 1000)
    }

    /// Like [`new`](Self::new); `always_told` is the setting.
    pub(super) fn telling(max_bytes: usize, always_told: usize) -> Self {
        let store = Arc::<ModelStore>::default();
        let log = Arc::clone(&store.log);
        let urls = Arc::new(Urls::default());
        let plugins = Arc::new(NoPlugins::default());
        let env = store.env(max_bytes, Arc::clone(&urls) as _, plugins);
        let settings = LiveSettings {
            max_subscriptions: 10,
            max_records: 1000,
            max_queue: 100_000,
            max_queue_bytes: 1 << 30,
            max_missed: 1000,
            always_told,
        };
        let service = LiveQueries::new(env.clone(), settings, Timeline::default());
        let mut follower = LiveFollower::new(service.clone());
        let (to_follow, mut commits) = mpsc::unbounded_channel::<Arc<Commit>>();
        spawn_named("follower of a test", async move {
            while let Some(commit) = commits.recv().await {
                follower.take(&commit).await;
                follower.caught_up();
            }
        });
        Self {
            service,
            env,
            urls,
            log,
            store,
            to_follow,
            num_given: 0,
        }
    }

    /// From now on, notes whether the lock is taken while records are written.
    pub(super) fn watch_the_lock(&self) {
        let _ = self.urls.service.set(self.service.clone());
    }

    /// Lets everything run that can.
    pub(super) async fn rest(&self) {
        for _ in 0..ROUNDS {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn applied(&self) -> u64 {
        self.env.applied.position()
    }

    pub(super) fn commit(&self, events: Vec<(Stream, EventBody)>) {
        let commit = self.log.commit(events);
        self.env.model.committed(&[commit]);
    }

    /// Lets the store apply at most `max_commits` more commits.
    pub(super) fn apply(&self, max_commits: usize) {
        let applied = self.applied();
        let commits = self.log.0.lock();
        let next = commits.iter().filter(|it| it.first_position() > applied);
        let last = next.take(max_commits).last().cloned();
        drop(commits);
        if let Some(last) = last {
            self.store.applied.reached(last.last_position());
            self.env.model.projected(last.last_position());
        }
    }

    /// Gives the follower at most `max_commits` more commits.
    pub(super) fn follow(&mut self, max_commits: usize) {
        let commits = self.log.0.lock();
        let next = commits.iter().skip(self.num_given).take(max_commits);
        let next: Vec<_> = next.cloned().collect();
        drop(commits);
        self.num_given += next.len();
        for commit in next {
            let _ = self.to_follow.send(commit);
        }
    }

    /// Lets waiting reads through until there are none.
    pub(super) async fn release_all(&self) {
        self.rest().await;
        while self.store.gate.num_waiting() > 0 {
            self.store.gate.release(0);
            self.rest().await;
        }
    }

    /// Lets everything finish.
    pub(super) async fn come_to_rest(&mut self) {
        self.apply(usize::MAX);
        self.follow(usize::MAX);
        // What has failed is tried again after a longer one.
        self.release_all().await;
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        for _ in 0..10 {
            self.release_all().await;
            // For what is looked up again after a pause.
            tokio::time::advance(std::time::Duration::from_millis(60)).await;
        }
    }

    /// Returns what a fresh query as the ear's user finds.
    pub(super) async fn fresh(&self, ear: &Ear) -> Vec<String> {
        let (query, env) = (ear.parsed(), &self.env);
        let loaded = load(env, &query, &ear.audience, 1000);
        let released = async {
            loop {
                self.release_all().await;
            }
        };
        tokio::select! {
            loaded = loaded => loaded.unwrap().expect("the log has everything").pages,
            () = released => Vec::new(),
        }
    }

    /// Whether a record has a row.
    pub(super) fn has_row(&self, id: &RecordId) -> bool {
        self.store.rows().heads.contains_key(id)
    }

    /// Whether a record exists, by all that is committed.
    pub(super) fn has(&self, id: &RecordId) -> bool {
        let commits = self.log.0.lock();
        let mut events = commits.iter().flat_map(|commit| &commit.events);
        let stream = Stream::Record(id.clone());
        let last = events.rfind(|event| event.stream == stream);
        last.is_some_and(|event| !matches!(event.body, EventBody::RecordDeleted(_)))
    }
}

pub(super) fn audience(user: Option<&str>) -> Audience {
    Audience {
        is_master: false,
        user: user.map(UserId::from),
    }
}

pub(super) fn note(key: &str) -> RecordId {
    RecordId::new("note", key)
}

pub(super) fn typed(name: &str, fields: &[(&str, FieldType)]) -> (Stream, EventBody) {
    let fields = fields
        .iter()
        .map(|(name, kind)| ((*name).to_owned(), kind.clone()));
    let extension = TypeExtension {
        fields: fields.collect(),
        ..TypeExtension::default()
    };
    let stream = Stream::Type(TypeName::from(name));
    (stream, EventBody::TypeExtended(extension))
}

fn touch(by: i64) -> ChangeStamp {
    ChangeStamp {
        at: Timestamp::from_micros(by),
        by: None,
    }
}

/// A record is created; `access` is as on the wire.
pub(super) fn created(id: &RecordId, fields: Json, access: &Json) -> (Stream, EventBody) {
    let state = RecordState {
        database: None,
        owner: None,
        access: Acl::from_wire(access).unwrap(),
        created: None,
        updated: touch(1),
        fields: serde_json::from_value(fields).unwrap(),
    };
    (Stream::Record(id.clone()), EventBody::RecordCreated(state))
}

pub(super) fn changed(id: &RecordId, fields: Json, access: &Json) -> (Stream, EventBody) {
    let patch = RecordPatch {
        set: serde_json::from_value(fields).unwrap(),
        access: Acl::from_wire(access).unwrap(),
        ..RecordPatch::default()
    };
    (Stream::Record(id.clone()), EventBody::RecordChanged(patch))
}

pub(super) fn deleted(id: &RecordId) -> (Stream, EventBody) {
    (
        Stream::Record(id.clone()),
        EventBody::RecordDeleted(touch(2)),
    )
}

pub(super) fn renamed(from: &str, to: &str) -> (Stream, EventBody) {
    let change = FieldRename {
        from: from.to_owned(),
        to: to.to_owned(),
    };
    let stream = Stream::Type("note".into());
    (stream, EventBody::TypeFieldRenamed(change))
}

pub(super) fn signed_up(user: &str) -> (Stream, EventBody) {
    let body = EventBody::UserCreated(UserState::default());
    (Stream::User(user.into()), body)
}

pub(super) fn role(user: &str, role: &str, has: bool) -> (Stream, EventBody) {
    let mut patch = UserPatch::default();
    let roles = if has {
        &mut patch.roles_added
    } else {
        &mut patch.roles_removed
    };
    roles.insert(role.into());
    (Stream::User(user.into()), EventBody::UserChanged(patch))
}

/// Only users with a role may see `note.secret`; without a role given, everybody may.
pub(super) fn rules(role: Option<&str>) -> (Stream, EventBody) {
    rules_for("secret", role)
}

/// Like [`rules`], for any field of `note`.
pub(super) fn rules_for(field: &str, role: Option<&str>) -> (Stream, EventBody) {
    let entry = |user_role: &str, may: bool| FieldAccessEntry {
        record_type: "note".to_owned(),
        record_field: field.to_owned(),
        user_role: FieldUserRole::parse(user_role).unwrap(),
        writable: true,
        readable: may,
        comparable: may,
        discoverable: may,
    };
    let only = |role| {
        vec![
            entry(&format!("_role:{role}"), true),
            entry("_public", false),
        ]
    };
    let access = FieldAccess(role.map(only).unwrap_or_default());
    (Stream::FieldAccess, EventBody::FieldAccessSet(access))
}

/// An access list of one role.
pub(super) fn for_role(role: &str) -> Json {
    json!([{"role": role, "level": "read"}])
}
