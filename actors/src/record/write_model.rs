//! The write model: the memory side of the record store.
//!
//! It is the fold of the log's recent tail. It holds every type definition and role, and the heads
//! of recently written or read records. A head whose last write the projector has not applied yet
//! is pinned. So a reader that does not find a record here can read the store and still gets
//! everything up to the head of the log.
//!
//! It observes the log right after the erasures, so it is updated before a write is acknowledged: a
//! client reads its own acknowledged writes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use skytrail_schema::auth_keys::AuthKeys;
use skytrail_schema::event::{Commit, Event, EventBody, RoleFlags, Stream, UserState};
use skytrail_schema::field_access::{FieldAccess, FieldRules};
use skytrail_schema::id::{RecordId, RecordKey, RoleName, TypeName, UserId};
use skytrail_schema::record::Head;
use skytrail_schema::types::TypeDefinition;

use super::apply;
use super::head_cache::HeadCache;
use super::known_keys::KnownKeys;
use super::weighed::WeighedCache;
use crate::log::{Backlog, CommitObserver, LagBound};
use crate::store::{HeadSource, Snapshot};

/// What is known in memory about a record: its head, or that it does not exist.
pub type KnownHead = Option<Arc<Head>>;

/// A user's auth row and the version of its stream; `None` if it is known not to exist.
pub type KnownUser = Option<Arc<(u32, UserState)>>;

/// What is known of some records.
#[derive(Debug)]
pub struct KnownHeads {
    /// The position as of which it is known.
    pub position: u64,
    /// One per record asked for; `None` if nothing is known and the store has the truth.
    pub heads: Vec<Option<KnownHead>>,
    /// Whether the store must first apply everything up to `position` to have that truth.
    pub store_is_behind: bool,
}

/// How much is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CacheSizes {
    /// Heads of records.
    pub num_records: usize,
    /// Auth rows of users.
    pub num_users: usize,
    /// Roughly how many bytes these two take.
    pub num_bytes: usize,
    /// Record types.
    pub num_types: usize,
    /// Hashes of keys that are known to exist.
    pub num_known_keys: usize,
    /// Writes that the projector has not applied yet.
    pub num_pinned: usize,
}

/// The rules of access to fields, and which names of fields they refer to.
#[derive(Clone, Debug)]
pub struct NamedRules {
    /// The rules.
    pub rules: Arc<FieldRules>,
    /// The last position at which a field of any type was renamed or deleted.
    pub reshaped: u64,
}

impl NamedRules {
    /// Whether neither rules nor names have changed between two looks.
    pub fn is_same(&self, other: &Self) -> bool {
        self.reshaped == other.reshaped && Arc::ptr_eq(&self.rules, &other.rules)
    }
}

/// See the module's overview.
pub struct WriteModel {
    types: RwLock<HashMap<TypeName, Arc<TypeDefinition>>>,
    roles: RwLock<BTreeMap<RoleName, (u32, RoleFlags)>>,
    field_access: RwLock<(u32, FieldAccess, Arc<FieldRules>)>,
    cache: Mutex<Cache>,
    keys: KnownKeys,
    backlog: Arc<Backlog>,
    auth_keys: AuthKeys,
    requires_verification: bool,
}

struct Cache {
    /// The last observed position.
    position: u64,
    /// The last position that the projector has applied.
    projected: u64,
    records: HeadCache,
    users: WeighedCache<UserId, KnownUser>,
    /// What was written at which position and is not projected yet, oldest first.
    pinned: VecDeque<(u64, Stream)>,
    /// Types whose records the projector still has to change as a whole, with the position.
    reshaped: HashMap<TypeName, u64>,
    /// See [`NamedRules::reshaped`].
    last_reshaped: u64,
    /// How many pinned writes each stream has.
    pins: HashMap<Stream, u32>,
    /// The maximum bytes of the users.
    max_bytes: usize,
}

impl WriteModel {
    /// Builds the state as of a store's checkpoint. `max_bytes` bounds the unpinned heads; auth
    /// rows get another quarter of that.
    pub fn new(snapshot: &Snapshot, max_bytes: usize) -> Self {
        let types = snapshot
            .types
            .iter()
            .map(|definition| (definition.name.clone(), Arc::new(definition.clone())));
        let roles = snapshot
            .roles
            .iter()
            .map(|(name, version, flags)| (name.clone(), (*version, *flags)));
        // A type's last change is never earlier than the last rename or deletion of a field.
        let reshaped = snapshot.types.iter().filter(|it| it.reshaped > 0);
        let last_reshaped = reshaped.map(|it| it.position).max();
        let (version, access) = &snapshot.field_access;
        let keys = KnownKeys::default();
        if snapshot
            .types
            .iter()
            .all(|definition| !definition.is_created)
        {
            keys.complete();
        }
        Self {
            keys,
            backlog: Arc::new(Backlog::new(LagBound::NONE)),
            auth_keys: AuthKeys::default(),
            requires_verification: false,
            types: RwLock::new(types.collect()),
            roles: RwLock::new(roles.collect()),
            field_access: RwLock::new(compiled(*version, access, (&AuthKeys::default(), false))),
            cache: Mutex::new(Cache {
                position: snapshot.checkpoint,
                projected: snapshot.checkpoint,
                records: HeadCache::new(max_bytes),
                users: WeighedCache::new(),
                pinned: VecDeque::new(),
                reshaped: HashMap::new(),
                last_reshaped: last_reshaped.unwrap_or_default(),
                pins: HashMap::new(),
                max_bytes: max_bytes / 4,
            }),
        }
    }

    /// Reports to `backlog` how much is pinned.
    #[must_use]
    pub fn with_backlog(self, backlog: Arc<Backlog>) -> Self {
        Self { backlog, ..self }
    }

    /// Guards the fields that users sign in with as long as no rules of access to fields are set.
    /// If users must be verified, also keeps them from saying who is verified.
    #[must_use]
    pub fn guarding(mut self, auth_keys: AuthKeys, requires_verification: bool) -> Self {
        let (version, access) = self.get_field_access();
        let guarded = (&auth_keys, requires_verification);
        *self.field_access.get_mut() = compiled(version, &access, guarded);
        self.auth_keys = auth_keys;
        self.requires_verification = requires_verification;
        self
    }

    /// Returns the rules of access to fields that hold before the first are set.
    pub fn installed_access(&self) -> FieldAccess {
        FieldAccess::installed(&self.auth_keys)
    }

    /// Whether users must be verified.
    pub fn requires_verification(&self) -> bool {
        self.requires_verification
    }

    /// Returns the last observed position.
    pub fn position(&self) -> u64 {
        self.cache.lock().position
    }

    /// Looks at types and rules as of one position, and returns that position.
    pub fn at_one_position<T>(&self, look: impl FnOnce(&Self) -> T) -> (u64, T) {
        // Events are observed while the cache is locked.
        let cache = self.cache.lock();
        (cache.position, look(self))
    }

    /// Returns how much is kept in memory.
    pub fn sizes(&self) -> CacheSizes {
        let num_types = self.types.read().len();
        let cache = self.cache.lock();
        CacheSizes {
            num_records: cache.records.len(),
            num_users: cache.users.len(),
            num_bytes: cache.records.bytes() + cache.users.bytes(),
            num_types,
            num_known_keys: self.keys.len(),
            num_pinned: cache.pinned.len(),
        }
    }

    /// Returns what is known of records, as of one position.
    pub fn get_heads(&self, ids: &[RecordId]) -> KnownHeads {
        let mut cache = self.cache.lock();
        let head_of = |id: &RecordId| {
            let head = cache.records.get(id);
            head.or_else(|| self.keys.is_absent(id).then_some(None))
        };
        let heads: Vec<_> = ids.iter().map(head_of).collect();
        cache.evict();
        let is_behind = |(id, head): (&RecordId, &Option<KnownHead>)| {
            let is_pinned = || cache.pins.contains_key(&Stream::Record(id.clone()));
            head.is_none() && (is_pinned() || cache.reshaped.contains_key(&id.record_type))
        };
        let may_be_behind = !cache.pins.is_empty() || !cache.reshaped.is_empty();
        let store_is_behind = may_be_behind && ids.iter().zip(&heads).any(is_behind);
        KnownHeads {
            position: cache.position,
            heads,
            store_is_behind,
        }
    }

    /// Keeps what was read from the store, unless something newer is known or anything was written
    /// since `read_position`.
    pub fn keep_head(&self, id: RecordId, head: KnownHead, read_position: u64) {
        let mut cache = self.cache.lock();
        if cache.position == read_position && !cache.records.contains(&id) {
            cache.records.put(id, head);
            cache.evict();
        }
    }

    /// Returns what is known of a user's auth row, and as of which position.
    pub fn get_user(&self, id: &UserId) -> (u64, Option<KnownUser>) {
        let mut cache = self.cache.lock();
        let user = cache.users.get(id).cloned();
        (cache.position, user)
    }

    /// Like [`WriteModel::keep_head`], for a user's auth row.
    pub fn keep_user(&self, id: UserId, user: KnownUser, read_position: u64) {
        let mut cache = self.cache.lock();
        if cache.position == read_position && !cache.users.contains(&id) {
            cache.users.put(id, user);
            cache.evict();
        }
    }

    /// Returns a type's definition; an empty one if the log has nothing about the type.
    pub fn get_type(&self, name: &TypeName) -> Arc<TypeDefinition> {
        let definition = self.types.read().get(name).cloned();
        definition.unwrap_or_else(|| Arc::new(TypeDefinition::empty(name.clone())))
    }

    /// Returns what is known about which records exist.
    pub fn known_keys(&self) -> &KnownKeys {
        &self.keys
    }

    /// Returns all known types, in no particular order.
    pub fn get_types(&self) -> Vec<Arc<TypeDefinition>> {
        self.types.read().values().cloned().collect()
    }

    /// Returns all roles with the versions of their streams and their flags.
    pub fn get_roles(&self) -> BTreeMap<RoleName, (u32, RoleFlags)> {
        self.roles.read().clone()
    }

    /// Returns the rules of access to fields, compiled.
    pub fn get_field_rules(&self) -> Arc<FieldRules> {
        Arc::clone(&self.field_access.read().2)
    }

    /// Returns the rules of access to fields with the names that they refer to, and the position as
    /// of which they hold.
    ///
    /// What was read from the store between two equal looks has these names, provided that the
    /// store had applied the first look's position: the store applies nothing that was not observed
    /// here before.
    pub fn get_named_rules(&self) -> (u64, NamedRules) {
        let cache = self.cache.lock();
        let named = NamedRules {
            rules: self.get_field_rules(),
            reshaped: cache.last_reshaped,
        };
        (cache.position, named)
    }

    /// Returns the rules of access to fields with the version of their stream.
    pub fn get_field_access(&self) -> (u32, FieldAccess) {
        let access = self.field_access.read();
        (access.0, access.1.clone())
    }

    /// Learns that the store has applied everything up to `position`: what was pinned up to there
    /// may be evicted.
    pub fn projected(&self, position: u64) {
        let mut cache = self.cache.lock();
        cache.projected = cache.projected.max(position);
        cache.reshaped.retain(|_, written| *written > position);
        while cache
            .pinned
            .front()
            .is_some_and(|(written, _)| *written <= position)
        {
            let Some((_, stream)) = cache.pinned.pop_front() else {
                break;
            };
            cache.unpin(&stream);
        }
        cache.evict();
        self.backlog.note(cache.num_waiting(), cache.pinned_bytes());
    }

    fn observe(&self, event: &Event, cache: &mut Cache) {
        match &event.stream {
            Stream::Record(id) => {
                let before = cache.records.peek(id).flatten();
                match apply::record(before.as_deref(), id, event) {
                    apply::Folded::Known(head) => {
                        cache.records.put(id.clone(), head.map(Arc::new));
                        cache.pin(event);
                    }
                    // The record was evicted after the decision read it. The next reader must not
                    // take the store's older state: the pin makes it wait for the projector.
                    apply::Folded::Unknown => {
                        cache.records.pop(id);
                        cache.pin(event);
                    }
                }
            }
            Stream::User(id) => {
                let before = cache.users.peek(id).cloned().flatten();
                match apply::user(before.as_deref(), event) {
                    apply::Folded::Known(user) => cache.users.put(id.clone(), user.map(Arc::new)),
                    apply::Folded::Unknown => {
                        cache.users.pop(id);
                    }
                }
                cache.pin(event);
            }
            Stream::Type(name) => {
                let before = self.get_type(name);
                let definition = apply::record_type(&before, event);
                let is_numbered = before.numbered.len() < definition.numbered.len();
                if apply::reshapes(&event.body) {
                    cache.last_reshaped = event.position;
                }
                if is_numbered || apply::reshapes(&event.body) {
                    cache.await_reshaping(name, event.position);
                }
                self.types
                    .write()
                    .insert(name.clone(), Arc::new(definition));
            }
            Stream::Role(name) => {
                if let EventBody::RoleDefined(flags) = &event.body {
                    self.roles
                        .write()
                        .insert(name.clone(), (event.version, *flags));
                }
            }
            Stream::FieldAccess => {
                if let EventBody::FieldAccessSet(access) = &event.body {
                    let guarded = (&self.auth_keys, self.requires_verification);
                    *self.field_access.write() = compiled(event.version, access, guarded);
                }
            }
            Stream::Relation(..)
            | Stream::Asset(_)
            | Stream::Device(_)
            | Stream::Subscriptions(_)
            | Stream::Task(_)
            | Stream::Erasure(_)
            | Stream::Plugin(_)
            | Stream::Restore(_) => {}
        }
    }
}

/// Compiles the rules of access to fields; before the first event, those of a new app apply.
fn compiled(
    version: u32,
    access: &FieldAccess,
    (auth_keys, requires_verification): (&AuthKeys, bool),
) -> (u32, FieldAccess, Arc<FieldRules>) {
    let access = if version == 0 {
        FieldAccess::installed(auth_keys)
    } else {
        access.clone()
    };
    let rules = Arc::new(FieldRules::new(&access).guarding_verified(requires_verification));
    (version, access, rules)
}

impl HeadSource for WriteModel {
    fn get_written(
        &self,
        name: &TypeName,
        versions: &[(RecordKey, u64)],
    ) -> Vec<Option<Arc<Head>>> {
        let mut cache = self.cache.lock();
        let written = versions.iter().map(|(key, position)| {
            let id = RecordId::new(name.clone(), key.clone());
            cache.records.get_written(&id, *position)
        });
        let written = written.collect();
        cache.evict();
        written
    }
}

impl CommitObserver for WriteModel {
    fn committed(&self, commits: &[Arc<Commit>]) {
        let created = commits.iter().flat_map(|commit| &commit.events);
        let created = created.filter_map(|event| match (&event.stream, &event.body) {
            (Stream::Record(id), EventBody::RecordCreated(_)) => Some(id),
            _ => None,
        });
        self.keys.learn(created);
        let mut cache = self.cache.lock();
        for event in commits.iter().flat_map(|commit| &commit.events) {
            self.observe(event, &mut cache);
            cache.position = event.position;
        }
        self.backlog.note(cache.num_waiting(), cache.pinned_bytes());
    }
}

impl Cache {
    /// How many events the projector has not applied.
    fn num_waiting(&self) -> u64 {
        self.position.saturating_sub(self.projected)
    }

    /// Roughly how many bytes are kept only because they are pinned.
    fn pinned_bytes(&self) -> usize {
        // Records get four times as much as users.
        let usual = self.max_bytes.saturating_mul(5);
        (self.records.bytes() + self.users.bytes()).saturating_sub(usual)
    }

    fn pin(&mut self, event: &Event) {
        if event.position > self.projected {
            self.pinned
                .push_back((event.position, event.stream.clone()));
            *self.pins.entry(event.stream.clone()).or_default() += 1;
        }
    }

    /// Drops a type's records because it got a sequence field, or a field was renamed or deleted:
    /// what the projector makes of the records is known only from the store.
    fn await_reshaping(&mut self, name: &TypeName, position: u64) {
        if position <= self.projected {
            return;
        }
        self.reshaped.insert(name.clone(), position);
        self.records.pop_type(name);
    }

    fn unpin(&mut self, stream: &Stream) {
        if let Some(count) = self.pins.get_mut(stream) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(stream);
            }
        }
    }

    /// Evicts what was used longest ago above the bounds, except for what is pinned: the first
    /// pinned entry that is met goes back to the front, and the walk ends.
    fn evict(&mut self) {
        let pins = &self.pins;
        self.records
            .trim(|id| pins.contains_key(&Stream::Record(id.clone())));
        while self.users.bytes() > self.max_bytes {
            let Some((id, user)) = self.users.pop_lru() else {
                break;
            };
            if self.pins.contains_key(&Stream::User(id.clone())) {
                self.users.put(id, user);
                break;
            }
        }
    }
}
