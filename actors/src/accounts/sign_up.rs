//! Signing up: auth row and user record in one commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, Stream, UserState};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{Database, RecordId, RoleName, UserId};
use skytrail_schema::record::{Fields, Head};
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;
use uuid::Uuid;

use super::actor::Accounts;
use super::messages::{Account, Session, SignUp};
use super::sso;
use crate::context::RequestContext;
use crate::plugin::Trigger;
use crate::record::attempt::{Outcome, commit, until_settled};
use crate::record::decide::{Plan, Surroundings, head_after, new_unique_values};
use crate::record::draft::{self, Draft, DraftContext, taken};
use crate::record::messages::SaveItem;
use crate::record::{hooks, types};

/// Values of auth keys.
type AuthData = BTreeMap<String, Value>;

/// Returns the first configured alternative whose keys are all there; `None` when there is none,
/// or some key belongs to no alternative.
pub(super) fn effective_alternative(
    alternatives: &[Vec<String>],
    auth_data: &AuthData,
) -> Option<Vec<String>> {
    let is_known = |key: &String| alternatives.iter().flatten().any(|known| known == key);
    let is_there = |key: &String| auth_data.get(key).is_some_and(|value| !value.is_null());
    if !auth_data.keys().all(is_known) {
        return None;
    }
    alternatives
        .iter()
        .find(|alternative| alternative.iter().all(is_there))
        .cloned()
}

/// Signs a user up.
///
/// # Errors
/// As the service says.
pub(super) async fn sign_up(accounts: &Accounts, command: SignUp) -> Result<Session, ApiError> {
    check(accounts, &command)?;
    let hash = match &command.password {
        Some(password) => Some(accounts.hasher.hash(password.clone()).await?),
        None => None,
    };
    let keys = command.auth_data.keys().cloned().collect();
    let mut fields = command.profile;
    let given = command.auth_data.into_iter();
    fields.extend(given.filter(|(_, value)| !value.is_null()));
    let newcomer = Newcomer {
        context: command.context,
        hash,
        fields,
        keys,
        roles: default_roles(accounts),
        account: None,
    };
    let session = newcomer.create(accounts).await?;
    session.ok_or_else(|| user_duplicated(taken()))
}

fn check(accounts: &Accounts, command: &SignUp) -> Result<(), ApiError> {
    let is_empty = command.auth_data.values().all(Value::is_null);
    if is_empty && command.password.is_none() {
        return Ok(());
    }
    if effective_alternative(&accounts.auth_keys, &command.auth_data).is_none() {
        return Err(ApiError::invalid_argument(
            "invalid auth data",
            &["auth_data"],
        ));
    }
    let doubled: Vec<&str> = command
        .auth_data
        .keys()
        .filter(|key| command.profile.contains_key(*key))
        .map(String::as_str)
        .collect();
    if !doubled.is_empty() {
        return Err(ApiError::invalid_argument(
            "duplicated keys found in auth data in profile",
            &doubled,
        ));
    }
    match command.password.as_deref() {
        None | Some("") => Err(ApiError::invalid_argument("empty password", &["password"])),
        Some(_) => Ok(()),
    }
}

/// Returns the item that saves fields to a record.
pub(super) fn item(id: RecordId, fields: Fields) -> SaveItem {
    SaveItem {
        id,
        access: None,
        fields,
    }
}

/// Returns the change of a user record at a login.
pub(super) fn login_draft(head: &Arc<Head>, user: &UserId, now: Timestamp) -> Draft {
    let mut record = head.record.clone();
    record
        .fields
        .insert("last_login_at".to_owned(), Value::Date(now));
    record.updated_at = now;
    record.updated_by = Some(user.clone());
    Draft {
        record,
        original: Some(Arc::clone(head)),
        provenance: Vec::new(),
    }
}

/// Somebody who is about to become a user.
pub(super) struct Newcomer {
    /// The request. Hooks see it as it is: without the user who is not there yet.
    pub(super) context: RequestContext,
    /// The password's hash.
    pub(super) hash: Option<String>,
    /// The user record's fields.
    pub(super) fields: Fields,
    /// Those of the fields that he signs in with.
    pub(super) keys: BTreeSet<String>,
    /// The first roles.
    pub(super) roles: BTreeSet<RoleName>,
    /// An account elsewhere that signs the user in.
    pub(super) account: Option<Account>,
}

impl Newcomer {
    /// Makes the user and signs him in; `None` when the account elsewhere has a user meanwhile.
    ///
    /// # Errors
    /// As the service says of signing up.
    pub(super) async fn create(self, accounts: &Accounts) -> Result<Option<Session>, ApiError> {
        let id = Accounts::new_user_id();
        let mut own_context = self.context.clone();
        own_context.caller.user = Some(id.clone());
        own_context.caller.roles.clone_from(&self.roles);
        let record = RecordId::user(&id);
        let brought = [(&record, &self.fields)].into_iter();
        types::extend_by(&accounts.env, brought, &own_context).await?;
        let creation = Creation {
            item: item(record, self.fields.clone()),
            id,
            newcomer: self,
            own_context,
            attempt: Uuid::now_v7(),
        };
        let made = until_settled(&accounts.turn, |_| creation.attempt(accounts)).await?;
        let Some((state, head)) = made else {
            return Ok(None);
        };
        creation.run_after_hooks(accounts, &head).await?;
        let (id, profile) = (&creation.id, Some(head.record.clone()));
        let mut session = accounts
            .session(id, &state, profile, &creation.own_context)
            .await?;
        session.last_seen_at = None;
        accounts.note_seen(id, &creation.own_context, true).await?;
        Ok(Some(session))
    }
}

/// The making of one user.
struct Creation {
    id: UserId,
    item: SaveItem,
    newcomer: Newcomer,
    /// The request as the user's own.
    own_context: RequestContext,
    /// What the hooks cause names it.
    attempt: Uuid,
}

impl Creation {
    async fn run_after_hooks(&self, accounts: &Accounts, head: &Head) -> Result<(), ApiError> {
        let (env, record) = (&accounts.env, &head.record);
        let points = env.plugins.points();
        if points
            .hooks(&record.id.record_type, Trigger::AfterSave)
            .is_empty()
        {
            return Ok(());
        }
        env.applied.wait_for(head.position).await?;
        let occasion = hooks::Occasion {
            trigger: Trigger::AfterSave,
            context: &self.newcomer.context,
            attempt: self.attempt,
        };
        hooks::run(&env.plugins, occasion, record, None).await
    }

    async fn attempt(
        &self,
        accounts: &Accounts,
    ) -> Result<Outcome<Option<(UserState, Arc<Head>)>>, ApiError> {
        let env = &accounts.env;
        let position = env.live.position();
        if let Some(account) = &self.newcomer.account
            && sso::find(accounts, account, position).await?.is_some()
        {
            return Ok(Outcome::Done(None));
        }
        let definition = env.definition(&self.item.id.record_type);
        let at = DraftContext {
            caller: &self.own_context.caller,
            database: &Database::Public,
            definition: &definition,
            now: env.clock.now(),
        };
        // Signing up needs no right to create user records.
        let record = draft::create_unchecked(&self.item, at);
        let mut draft = Draft {
            record,
            original: None,
            provenance: Vec::new(),
        };
        self.drop_unwritable(&mut draft, &env.live.get_field_rules(), at);
        let context = &self.newcomer.context;
        hooks::before_save(&env.plugins, &mut draft, context, self.attempt).await?;
        let brought = (draft.record.id.clone(), draft.record.fields.clone());
        let brought = [(&brought.0, &brought.1)].into_iter();
        types::extend_by(env, brought, &self.own_context).await?;
        let definition = env.definition(&self.item.id.record_type);
        let around = self.look_around(accounts, &draft, position).await?;

        let mut plan = Plan::default();
        let state = UserState {
            password_hash: self.newcomer.hash.clone(),
            token_valid_since: self.newcomer.hash.as_ref().map(|_| env.clock.now()),
            roles: self.newcomer.roles.clone(),
            ..UserState::default()
        };
        plan.push(
            Stream::User(self.id.clone()),
            1,
            EventBody::UserCreated(state.clone()),
        );
        if let Some(account) = &self.newcomer.account {
            sso::plan_link(&mut plan, (&self.id, 2), account, env.clock.now());
        }
        plan.save(&draft, &definition, &around)
            .map_err(user_duplicated)?;
        match commit(&env.log, plan, position, &self.own_context).await? {
            Outcome::Conflict => Ok(Outcome::Conflict),
            Outcome::Done(commit) => {
                let head = head_after(None, &draft.record.id, &commit.events);
                let head = head.ok_or_else(|| ApiError::unexpected("the user was not stored"))?;
                Ok(Outcome::Done(Some((state, head))))
            }
        }
    }

    /// Takes fields out that the user may not set. What he signs in with stays.
    fn drop_unwritable(&self, draft: &mut Draft, rules: &FieldRules, at: DraftContext<'_>) {
        let blank = draft::blank(draft.record.id.clone(), at);
        let denied = rules.find_unwritable(at.caller, &blank, &draft.record);
        let keys = &self.newcomer.keys;
        let is_dropped = |field: &String| denied.contains(field) && !keys.contains(field);
        draft.record.fields.retain(|field, _| !is_dropped(field));
    }

    async fn look_around(
        &self,
        accounts: &Accounts,
        draft: &Draft,
        position: u64,
    ) -> Result<Surroundings, ApiError> {
        let env = &accounts.env;
        let definition = env.definition(&self.item.id.record_type);
        env.applied.wait_for(position).await?;
        for (_, fields) in new_unique_values(draft, &definition) {
            let pairs = fields
                .iter()
                .filter_map(|field| draft.record.fields.get(*field).map(|value| (*field, value)));
            let pairs: Vec<_> = pairs.collect();
            if env
                .store
                .find_by_fields(&definition, &pairs)
                .await?
                .is_some()
            {
                return Err(user_duplicated(taken()));
            }
        }
        let references = crate::record::decide::new_references(draft);
        let existing = env
            .load_heads(&references)
            .await?
            .by_id
            .into_keys()
            .collect();
        Ok(Surroundings {
            existing,
            ..Surroundings::default()
        })
    }
}

fn default_roles(accounts: &Accounts) -> BTreeSet<RoleName> {
    let roles = accounts.env.live.get_roles().into_iter();
    roles
        .filter(|(_, (_, flags))| flags.by_default)
        .map(|(name, _)| name)
        .collect()
}

/// Says of a taken value what v1 says of users.
pub(super) fn user_duplicated(error: ApiError) -> ApiError {
    if error.code == Code::Duplicated {
        ApiError::new(Code::Duplicated, "user duplicated")
    } else {
        error
    }
}
