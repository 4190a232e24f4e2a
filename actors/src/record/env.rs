//! What a record actor works with, and how it reads the present state.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Stream, UserState};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{RecordId, RecordKey, TypeName, UserId};
use skytrail_schema::record::Head;
use skytrail_schema::types::{FieldType, TypeDefinition};

use super::apply::VersionedUser;
use super::fence::Fences;
use super::page_bytes::{BatchSize, PageBytes};
use super::past::{BATCH_SIZE, Walk};
use super::write_model::WriteModel;
use crate::accounts::admission::bad_token;
use crate::asset::AssetCatalog;
use crate::capture::CaptureGate;
use crate::clock::Clock;
use crate::delivery::consumers::Consumers;
use crate::log::{ConflictKey, EventLog};
use crate::plugin::PluginGate;
use crate::projector::Applied;
use crate::store::RecordStore;

/// What a caller may do at some point in time, in addition to what records and types say.
#[derive(Clone, Debug, PartialEq)]
pub struct Rights {
    /// The caller, with their roles.
    pub caller: Caller,
    /// The rules of access to fields.
    pub rules: Arc<FieldRules>,
}

impl Rights {
    /// Returns the keys that a decision resting on these rights reads. With the master key nothing
    /// depends on roles and rules, but the user who is named may be erased.
    pub fn keys(&self) -> impl Iterator<Item = ConflictKey> {
        let rules = ConflictKey::stream(&Stream::FieldAccess);
        let rules = (!self.caller.is_master()).then_some(rules);
        writer_key(&self.caller).into_iter().chain(rules)
    }
}

/// Returns the user in whose name a caller writes, unless that is the master key's own, who cannot be
/// erased.
fn writer(caller: &Caller) -> Option<&UserId> {
    caller.user.as_ref().filter(|user| **user != UserId::god())
}

/// Returns the key that a decision in a caller's name reads.
fn writer_key(caller: &Caller) -> Option<ConflictKey> {
    let user = writer(caller)?.clone();
    Some(ConflictKey::stream(&Stream::User(user)))
}

/// How long a write of somebody who may hold a lock waits for what SQL had written before.
const MAX_LOCKED_WAIT: Duration = Duration::from_secs(2);

/// The parts that writing and reading records need. Cheap to clone.
#[derive(Clone)]
pub struct RecordEnv {
    /// Where decisions go.
    pub log: Arc<dyn EventLog>,
    /// What has been projected.
    pub store: Arc<dyn RecordStore>,
    /// What is in memory.
    pub model: Arc<WriteModel>,
    /// How far the store is.
    pub applied: Applied,
    /// What is known about files.
    pub assets: AssetCatalog,
    /// Hooks.
    pub plugins: Arc<dyn PluginGate>,
    /// Delivers after-hooks to the plugins.
    pub consumers: Consumers,
    /// What SQL has changed.
    pub captured: CaptureGate,
    /// What has to wait.
    pub fences: Fences,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How many bytes `include` may add to an answer (`MAX_INCLUDED_BYTES`).
    pub max_included_bytes: usize,
    /// How many bytes the records of an answer can have.
    pub max_page_bytes: usize,
}

/// The current versions of some records, as of one position.
#[derive(Clone, Debug, Default)]
pub struct Heads {
    /// The position up to which everything is known.
    pub position: u64,
    /// The records; those that do not exist have no entry.
    pub by_id: HashMap<RecordId, Arc<Head>>,
}

impl Heads {
    /// Returns a record's current version.
    pub fn get(&self, id: &RecordId) -> Option<&Arc<Head>> {
        self.by_id.get(id)
    }
}

impl RecordEnv {
    /// Returns a type's definition.
    pub fn definition(&self, name: &TypeName) -> Arc<TypeDefinition> {
        self.model.get_type(name)
    }

    /// Returns it for somebody who reads, or waits for what they wrote. A plugin calls with the
    /// master key, maybe while its own transaction in the database holds a lock that the store waits
    /// for: it is answered from what the database has.
    #[must_use]
    pub fn for_caller(&self, caller: &Caller) -> Cow<'_, Self> {
        if caller.may_be_plugin() && self.captured.is_served() {
            let applied = self.applied.going_on_if_locked();
            return Cow::Owned(Self {
                applied,
                ..self.clone()
            });
        }
        Cow::Borrowed(self)
    }

    /// Waits until everything that SQL had changed before is in the log.
    ///
    /// This covers the given types and those that a request for their records may look at: users,
    /// what the types refer to, at any distance, and what refers to them.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn await_captured<'a>(
        &self,
        names: impl IntoIterator<Item = &'a TypeName>,
    ) -> Result<(), ApiError> {
        self.await_captured_for(names, Duration::ZERO).await
    }

    /// The same for somebody who writes. What SQL had committed before should be in the log before it,
    /// so a lock does not end the wait at once.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn await_captured_to_write<'a>(
        &self,
        names: impl IntoIterator<Item = &'a TypeName>,
    ) -> Result<(), ApiError> {
        self.await_captured_for(names, MAX_LOCKED_WAIT).await
    }

    async fn await_captured_for<'a>(
        &self,
        names: impl IntoIterator<Item = &'a TypeName>,
        max_locked_wait: Duration,
    ) -> Result<(), ApiError> {
        if !self.captured.is_active() {
            return Ok(());
        }
        let names: BTreeSet<TypeName> = names.into_iter().cloned().collect();
        let types = concerned(names, &self.model.get_types());
        let locked = async {
            self.applied.locked().await;
            tokio::time::sleep(max_locked_wait).await;
        };
        tokio::select! {
            captured = self.captured.await_captured(&types) => captured,
            () = locked => Ok(()),
        }
    }

    /// Loads the current versions of records, from memory if possible, otherwise from the store.
    ///
    /// # Errors
    /// The store failed or does not catch up.
    pub async fn load_heads(&self, ids: &[RecordId]) -> Result<Heads, ApiError> {
        let cached = self.model.get_heads(ids);
        let mut heads = Heads {
            position: cached.position,
            by_id: HashMap::new(),
        };
        let mut missing: HashMap<TypeName, Vec<RecordKey>> = HashMap::new();
        for (id, head) in ids.iter().zip(cached.heads) {
            match head {
                Some(Some(head)) => {
                    heads.by_id.insert(id.clone(), head);
                }
                Some(None) => {}
                None => missing
                    .entry(id.record_type.clone())
                    .or_default()
                    .push(id.key.clone()),
            }
        }
        if !missing.is_empty() && cached.store_is_behind {
            self.applied.wait_for(cached.position).await?;
        }
        // A reader that did not wait for a lock must not leave older states for those who decide.
        let is_current = !cached.store_is_behind || self.applied.position() >= cached.position;
        for (name, keys) in missing {
            self.load_missing(&name, keys, (&mut heads, is_current))
                .await?;
        }
        Ok(heads)
    }

    /// Loads the current version of one record, and returns the position as of which it is known.
    ///
    /// # Errors
    /// Those of [`Self::load_heads`].
    pub async fn load_head(&self, id: &RecordId) -> Result<(u64, Option<Arc<Head>>), ApiError> {
        let mut heads = self.load_heads(std::slice::from_ref(id)).await?;
        Ok((heads.position, heads.by_id.remove(id)))
    }

    /// Like [`Self::load_heads`], but within a bound in bytes. A record takes room each time that
    /// it is named.
    ///
    /// # Errors
    /// Those of [`Self::load_heads`]; 108 if the room is used up.
    pub async fn load_heads_within(
        &self,
        ids: &[RecordId],
        mut room: PageBytes,
    ) -> Result<Heads, ApiError> {
        let mut all: Option<Heads> = None;
        let take = |some: &[RecordId], heads: Heads| {
            for head in some.iter().filter_map(|id| heads.get(id)) {
                room.take(&head.record)?;
            }
            match &mut all {
                // Later batches know no less than the position of the first.
                Some(all) => all.by_id.extend(heads.by_id),
                None => all = Some(heads),
            }
            Ok(())
        };
        self.load_in_batches(ids, take).await?;
        Ok(all.unwrap_or_default())
    }

    /// Finds out which records exist.
    ///
    /// # Errors
    /// Those of [`Self::load_heads`].
    pub async fn find_existing(&self, ids: &[RecordId]) -> Result<HashSet<RecordId>, ApiError> {
        let mut existing = HashSet::new();
        let take = |_: &[RecordId], heads: Heads| {
            existing.extend(heads.by_id.into_keys());
            Ok(())
        };
        self.load_in_batches(ids, take).await?;
        Ok(existing)
    }

    /// Loads records batch by batch, at least one, until `take` refuses one.
    async fn load_in_batches(
        &self,
        ids: &[RecordId],
        mut take: impl FnMut(&[RecordId], Heads) -> Result<(), ApiError> + Send,
    ) -> Result<(), ApiError> {
        let (mut remaining, mut batch_size) = (ids, BatchSize::at_most(512));
        loop {
            let some;
            (some, remaining) = remaining.split_at(batch_size.size().min(remaining.len()));
            let heads = self.load_heads(some).await?;
            batch_size.adapt_to(heads.by_id.values().map(|head| &head.record));
            take(some, heads)?;
            if remaining.is_empty() {
                return Ok(());
            }
        }
    }

    /// Loads a user's auth row, from memory if possible. The store may lag behind: a caller that
    /// needs the state as of a position waits for that position first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn load_user(&self, user: &UserId) -> Result<Option<UserState>, ApiError> {
        if let (_, Some(cached)) = self.model.get_user(user) {
            return Ok(cached.map(|cached| cached.1.clone()));
        }
        let loaded = self.store.load_users(std::slice::from_ref(user)).await?;
        Ok(loaded.into_iter().next().flatten().map(|(_, state)| state))
    }

    /// Loads a user's auth row as of the present, and returns that position.
    ///
    /// # Errors
    /// The store failed or does not catch up.
    pub(crate) async fn load_present_user(
        &self,
        id: &UserId,
    ) -> Result<(u64, Option<VersionedUser>), ApiError> {
        let (position, cached) = self.model.get_user(id);
        if let Some(cached) = cached {
            return Ok((position, cached.as_deref().cloned()));
        }
        self.applied.wait_for(position).await?;
        let loaded = self.store.load_users(std::slice::from_ref(id)).await?;
        let user = loaded.into_iter().next().flatten();
        let kept = user.clone().map(Arc::new);
        self.model.keep_user(id.clone(), kept, position);
        Ok((position, user))
    }

    /// Returns what a caller may do at present: they may have lost a role since the request began.
    ///
    /// # Errors
    /// 127 if the user has been locked out since; those of [`Self::check_writer`].
    pub async fn rights_of(&self, caller: &Caller) -> Result<Rights, ApiError> {
        let mut caller = caller.clone();
        let user = self.load_writer(&caller).await?;
        if let Some(state) = user.filter(|_| !caller.is_master()) {
            state.check_enabled(self.clock.now())?;
            caller.roles = state.roles;
        }
        Ok(self.rights_as_given(caller))
    }

    /// Refuses to write in the name of a user who was erased since the request began: their erasure
    /// does not look for what is written after it. Returns the key that the decision has to read.
    ///
    /// # Errors
    /// Those that the request would have got at its beginning: 104, or 110 if the master key names
    /// the user; the store failed or does not catch up.
    pub async fn check_writer(&self, caller: &Caller) -> Result<Option<ConflictKey>, ApiError> {
        self.load_writer(caller).await?;
        Ok(writer_key(caller))
    }

    /// Loads the auth row of the user in whose name a caller writes. The master key can name users
    /// that do not exist yet.
    async fn load_writer(&self, caller: &Caller) -> Result<Option<UserState>, ApiError> {
        let Some(user) = writer(caller) else {
            return Ok(None);
        };
        self.fences
            .users
            .pass(std::slice::from_ref(user), None)
            .await;
        match self.load_present_user(user).await? {
            (_, Some((_, state))) => Ok(Some(state)),
            (_, None) if caller.is_master() => self.refuse_erased(user).map(|()| None),
            (_, None) => Err(bad_token()),
        }
    }

    /// Refuses a user who was erased and is not there.
    ///
    /// # Errors
    /// 110 with the time.
    pub fn refuse_erased(&self, user: &UserId) -> Result<(), ApiError> {
        let Some(at) = self.assets.erasures.time_of_user(user) else {
            return Ok(());
        };
        let message = format!(
            "user {user} was erased at {at}; only auth:import can create a user with this id"
        );
        Err(ApiError::new(Code::ResourceNotFound, message))
    }

    /// Returns what a caller may do with the roles that the caller has here, whatever has become of
    /// the user since.
    pub fn rights_as_given(&self, caller: Caller) -> Rights {
        let rules = self.model.get_field_rules();
        Rights { caller, rules }
    }

    /// Whether a user exists at present.
    ///
    /// # Errors
    /// The store failed or does not catch up.
    pub async fn has_user(&self, user: &UserId) -> Result<bool, ApiError> {
        let (_, found) = self.load_present_user(user).await?;
        Ok(found.is_some())
    }

    /// Folds a record's version as of a position from the log.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub async fn load_from_log(
        &self,
        id: &RecordId,
        position: u64,
    ) -> Result<Option<Head>, ApiError> {
        let ids = std::slice::from_ref(id);
        let loaded = self.load_each_from_log(ids, position).await?;
        Ok(loaded.into_iter().next().flatten())
    }

    /// Like [`Self::load_from_log`], for many records, in their order: what they need is read
    /// together.
    ///
    /// # Errors
    /// Those of [`Self::load_from_log`].
    pub async fn load_each_from_log(
        &self,
        ids: &[RecordId],
        position: u64,
    ) -> Result<Vec<Option<Head>>, ApiError> {
        let mut heads = Vec::with_capacity(ids.len());
        if !ids.is_empty() {
            self.applied.wait_for(position).await?;
        }
        for some in ids.chunks(BATCH_SIZE) {
            let at: Vec<_> = some.iter().map(|id| (id.clone(), position)).collect();
            let walks = Walk::begin_each(self, &at).await?.into_iter();
            heads.extend(walks.map(Walk::into_head));
        }
        Ok(heads)
    }

    async fn load_missing(
        &self,
        name: &TypeName,
        keys: Vec<RecordKey>,
        (heads, is_current): (&mut Heads, bool),
    ) -> Result<(), ApiError> {
        let definition = self.definition(name);
        if !definition.is_created {
            return Ok(());
        }
        let loaded = self.store.load_heads(&definition, &keys).await?;
        // Asked for after the rows, so that it includes what is captured in between.
        let captured = self.store.find_captured(&definition, &keys).await?;
        let ids = keys.into_iter().map(|key| RecordId {
            record_type: name.clone(),
            key,
        });
        let ids: Vec<RecordId> = ids.collect();
        let is_captured = |id: &RecordId| captured.contains(&id.key);
        let untrusted = ids.iter().filter(|id| is_captured(id)).cloned();
        let untrusted: Vec<RecordId> = untrusted.collect();
        let from_log = self.load_each_from_log(&untrusted, heads.position).await?;
        let is_log_current = self.applied.position() >= heads.position;
        let mut from_log = from_log.into_iter();
        for (id, head) in ids.into_iter().zip(loaded) {
            let (head, is_kept) = match is_captured(&id) {
                true => (from_log.next().flatten(), is_log_current),
                false => (head, is_current),
            };
            let head = head.map(Arc::new);
            if is_kept {
                let model = &self.model;
                model.keep_head(id.clone(), head.clone(), heads.position);
            }
            if let Some(head) = head {
                heads.by_id.insert(id, head);
            }
        }
        Ok(())
    }
}

fn concerned(names: BTreeSet<TypeName>, definitions: &[Arc<TypeDefinition>]) -> BTreeSet<TypeName> {
    let targets = |definition: &TypeDefinition| -> Vec<TypeName> {
        let fields = definition.fields.values();
        let targets = fields.filter_map(|kind| match kind {
            FieldType::Reference(target) => Some(target.clone()),
            _ => None,
        });
        targets.collect()
    };
    let referrers = definitions.iter().filter(|definition| {
        let targets = targets(definition);
        targets.iter().any(|target| names.contains(target))
    });
    let mut all: BTreeSet<TypeName> = referrers.map(|it| it.name.clone()).collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<TypeName> = names.into_iter().chain([TypeName::user()]).collect();
    while let Some(name) = open.pop() {
        let found = definitions.iter().find(|it| it.name == name);
        if reached.insert(name) {
            open.extend(found.into_iter().flat_map(|it| targets(it)));
        }
    }
    all.extend(reached);
    all
}
