//! Signing up: auth row and user record in one commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytrail_schema::auth_keys::{AuthData, LAST_LOGIN};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, Stream, UserState};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{Database, RecordId, RoleName, UserId};
use skytrail_schema::record::{Fields, Head};
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;
use tokio::sync::Mutex;

use super::Accounts;
use super::messages::{Account, Session, SignUp};
use super::session::Login;
use super::{sso, undo};
use crate::context::{Cause, RequestContext};
use crate::delivery::consumers::{CommitAnswers, Originals};
use crate::record::apply::head_after;
use crate::record::attempt::{Outcome, commit_announced, retry_on_conflict, turn_of};
use crate::record::before::Decided;
use crate::record::decide::{DecisionInputs, Plan, new_files};
use crate::record::draft::{self, Draft, DraftContext, taken};
use crate::record::env::RecordEnv;
use crate::record::messages::{ItemAccess, SaveItem};
use crate::record::unique_value::new_unique_values;
use crate::record::{hooks, types};

impl Accounts {
    /// Creates a user and signs them in.
    ///
    /// # Errors
    /// 108 for auth data that is not one of the configured forms, 109 for auth data that is taken,
    /// 114, and whatever a hook of the `user` type refuses with.
    pub async fn sign_up(&self, command: SignUp) -> Result<Session, ApiError> {
        check(self, &command)?;
        let mut new_user = NewUser {
            auth_data: given(&command.auth_data),
            context: command.context,
            hash: None,
            profile: command.profile,
            roles: default_roles(self),
            account: None,
        };
        if let Some(password) = command.password {
            let (fields, nobody) = (new_user.fields(), UserState::default());
            self.check_password(&password, &fields, &nobody).await?;
            new_user.hash = Some(self.hasher.hash(password).await?);
        }
        let session = new_user.create(self).await?;
        session.ok_or_else(|| user_duplicated(taken()))
    }
}

fn check(accounts: &Accounts, command: &SignUp) -> Result<(), ApiError> {
    let is_empty = command.auth_data.values().all(Value::is_null);
    if is_empty && command.password.is_none() {
        return Ok(());
    }
    let auth_keys = &accounts.settings.auth_keys;
    auth_keys
        .effective(&command.auth_data)
        .ok_or_else(invalid_auth_data)?;
    let doubled = command.auth_data.keys();
    let doubled = doubled.filter(|key| command.profile.contains_key(*key));
    let doubled: Vec<&str> = doubled.map(String::as_str).collect();
    if !doubled.is_empty() {
        let message = "duplicated keys found in auth data in profile";
        return Err(ApiError::invalid_argument(message, &doubled));
    }
    if command.password.is_none() {
        return Err(ApiError::invalid_argument("empty password", &["password"]));
    }
    Ok(())
}

/// Returns the error for auth data that is not one of the configured forms.
pub(super) fn invalid_auth_data() -> ApiError {
    ApiError::invalid_argument("invalid auth data", &["auth_data"])
}

/// Returns the auth data without nulls and empty strings, which name nobody.
pub(super) fn given(auth_data: &AuthData) -> AuthData {
    let is_given = |value: &Value| !value.is_null() && *value != Value::String(String::new());
    let given = auth_data.iter().filter(|(_, value)| is_given(value));
    given
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Returns the item that saves fields to a record and keeps its access list.
pub(super) fn item(id: RecordId, fields: Fields) -> SaveItem {
    SaveItem {
        id,
        access: ItemAccess::Kept,
        fields,
        restored: None,
    }
}

/// Returns the change to a user record at a login.
pub(super) fn login_draft(head: &Arc<Head>, user: &UserId, now: Timestamp) -> Draft {
    let mut record = head.record.clone();
    record
        .fields
        .insert(LAST_LOGIN.to_owned(), Value::Date(now));
    record.updated_at = now;
    record.updated_by = Some(user.clone());
    Draft {
        record,
        original: Some(Arc::clone(head)),
        provenance: Vec::new(),
        left_out: Default::default(),
    }
}

/// Somebody who is about to become a user.
pub(super) struct NewUser {
    /// The request. Hooks see it as it is: without the user, who does not exist yet.
    pub(super) context: RequestContext,
    /// The password's hash.
    pub(super) hash: Option<String>,
    /// What identifies the user; empty for one who signs in with an account elsewhere.
    pub(super) auth_data: AuthData,
    /// The other fields of the user record.
    pub(super) profile: Fields,
    /// The first roles.
    pub(super) roles: BTreeSet<RoleName>,
    /// An account elsewhere with which the user signs in.
    pub(super) account: Option<Account>,
}

impl NewUser {
    /// Creates the user and signs them in; `None` if the account elsewhere has been linked to a
    /// user meanwhile.
    ///
    /// # Errors
    /// Those of [`Accounts::sign_up`].
    pub(super) async fn create(mut self, accounts: &Accounts) -> Result<Option<Session>, ApiError> {
        let keys = accounts.settings.auth_keys.keys();
        let is_nobodys = |name: &str, value: &Value| {
            keys.contains(name) && *value == Value::String(String::new())
        };
        self.profile
            .retain(|name, value| !is_nobodys(name.as_str(), value));
        let fields = std::iter::once(&mut self.profile);
        accounts.env.assets.complete(fields).await?;
        let id = Accounts::new_user_id();
        let mut own_context = self.context.clone();
        own_context.caller.user = Some(id.clone());
        own_context.caller.roles.clone_from(&self.roles);
        let (record, fields) = (RecordId::user(&id), self.fields());
        let brought = [(&record, &fields)].into_iter();
        types::extend_by(&accounts.env, brought, &own_context).await?;
        let creation = Creation {
            item: item(record, fields),
            id,
            new_user: self,
            own_context,
            cause: Cause::begin(),
            decided: Mutex::new(None),
        };
        let made = retry_on_conflict(turn_of(&accounts.turn, &creation.own_context), |_| {
            creation.attempt(accounts)
        })
        .await?;
        let Some((state, head, commit_answers)) = made else {
            return Ok(None);
        };
        let (id, context) = (&creation.id, &creation.own_context);
        let (env, request_context) = (&accounts.env, &creation.new_user.context);
        undo::await_after_hooks(env, &head, request_context, commit_answers).await?;
        let profile = Some(head.record.clone());
        let session = accounts.session(id, &state, profile, context).await;
        if session.is_err() {
            // The token store is not available. A later sign-up must find the name free.
            undo::undo(env, &head.record.id, request_context).await;
        }
        let session = session?;
        let login = creation.new_user.login();
        accounts.note_seen(id, context, Some(login)).await?;
        Ok(Some(session))
    }

    /// How the user signs in, now that they exist.
    fn login(&self) -> Login {
        match &self.account {
            Some(account) => Login::Service(account.service.clone()),
            None => Login::Password(self.auth_data.keys().cloned().collect()),
        }
    }

    fn fields(&self) -> Fields {
        let mut fields = self.profile.clone();
        fields.extend(self.auth_data.clone());
        fields
    }
}

/// The creation of one user.
struct Creation {
    id: UserId,
    item: SaveItem,
    new_user: NewUser,
    /// The request as the user's own.
    own_context: RequestContext,
    /// The cause of whatever the hooks store.
    cause: Cause,
    /// What the hooks decided in an attempt that was overtaken: it counts if only their own writes
    /// overtook it.
    decided: Mutex<Option<Decided<Draft>>>,
}

impl Creation {
    async fn attempt(
        &self,
        accounts: &Accounts,
    ) -> Result<Outcome<Option<(UserState, Arc<Head>, CommitAnswers)>>, ApiError> {
        let env = &accounts.env;
        let position = env.model.position();
        if self.is_taken(accounts, position).await? {
            return Ok(Outcome::Done(None));
        }
        let definition = env.definition(&self.item.id.record_type);
        let at = DraftContext {
            caller: &self.own_context.caller,
            database: &Database::Public,
            definition: &definition,
            now: env.clock.now(),
        };
        // Signing up does not require the right to create user records.
        let record = draft::create_unchecked(&self.item, at);
        let mut draft = Draft {
            record,
            original: None,
            provenance: Vec::new(),
            left_out: Default::default(),
        };
        self.drop_unwritable(&mut draft, &env.model.get_field_rules(), at);
        let decided_at = match self.take_decided(env, position).await {
            Some(Decided { what, position }) => {
                draft.take_over(what);
                position
            }
            None => {
                self.run_hooks(env, &mut draft).await?;
                position
            }
        };
        // The user may name what a hook has created in a request of its own, so the decision rests
        // on the present.
        let (before, now) = (definition, env.model.position());
        let definition = env.definition(&self.item.id.record_type);
        let position = if definition == before { now } else { position };
        if self.is_taken(accounts, position).await? {
            return Ok(Outcome::Done(None));
        }
        let inputs = load_inputs(env, &draft, position).await?;

        let mut plan = Plan::default();
        let state = self.auth_row(accounts);
        plan.push(
            Stream::User(self.id.clone()),
            1,
            EventBody::UserCreated(state.clone()),
        );
        if let Some(account) = &self.new_user.account {
            sso::plan_link(&mut plan, (&self.id, 2), account, env.clock.now());
        }
        plan.save(&draft, &definition, &inputs)
            .map_err(user_duplicated)?;
        // Hooks are told of the request as it arrived; the commit names the user.
        let (hook_context, own) = (&self.new_user.context, &self.own_context);
        let done =
            commit_announced(env, (plan, position), Originals::new(), (own, hook_context)).await?;
        Ok(match done {
            Outcome::Conflict => {
                *self.decided.lock().await = Some(Decided {
                    what: draft,
                    position: decided_at,
                });
                Outcome::Conflict
            }
            Outcome::Done((commit, commit_answers)) => {
                let head = head_after(None, &draft.record.id, &commit.events);
                let head = head.ok_or_else(|| ApiError::unexpected("the user was not stored"))?;
                Outcome::Done(Some((state, head, commit_answers)))
            }
        })
    }

    /// Whether the account elsewhere already belongs to a user.
    async fn is_taken(&self, accounts: &Accounts, position: u64) -> Result<bool, ApiError> {
        match &self.new_user.account {
            Some(account) => Ok(sso::find(accounts, account, position).await?.is_some()),
            None => Ok(false),
        }
    }

    /// Takes what the hooks decided in the last attempt, if that still counts.
    async fn take_decided(&self, env: &RecordEnv, position: u64) -> Option<Decided<Draft>> {
        let decided = self.decided.lock().await.take()?;
        let own = (&self.new_user.context, &self.cause);
        let record = std::slice::from_ref(&self.item.id);
        decided.if_it_counts(env, own, record, position).await
    }

    /// Runs the before-hooks, which can bring files, and fields that no user had before.
    async fn run_hooks(&self, env: &RecordEnv, draft: &mut Draft) -> Result<(), ApiError> {
        let context = &self.new_user.context;
        hooks::before_save(&env.plugins, draft, context, &self.cause).await?;
        let fields = std::iter::once(&mut draft.record.fields);
        env.assets.complete(fields).await?;
        // The extension overtakes this sign-up, which must recognise it as its own.
        let mut context = self.own_context.clone();
        context.ancestors.push(self.cause.clone());
        let brought = [(&draft.record.id, &draft.record.fields)].into_iter();
        types::extend_by(env, brought, &context).await
    }

    /// Removes fields that the user may not set, except for the fields that they sign in with.
    fn drop_unwritable(&self, draft: &mut Draft, rules: &FieldRules, at: DraftContext<'_>) {
        let blank = draft::blank(draft.record.id.clone(), at);
        let denied = rules.find_unwritable(at.caller, &blank, (&draft.record, &Fields::new()));
        let keys = &self.new_user.auth_data;
        let is_dropped = |field: &String| denied.contains(field) && !keys.contains_key(field);
        draft.record.fields.retain(|field, _| !is_dropped(field));
    }

    fn auth_row(&self, accounts: &Accounts) -> UserState {
        let now = accounts.env.clock.now();
        let (policy, hash) = (&accounts.settings.policy, &self.new_user.hash);
        let history = hash.clone().map(|hash| policy.remember(hash, &[], now));
        UserState {
            password_hash: hash.clone(),
            token_valid_since: hash.as_ref().map(|_| now),
            roles: self.new_user.roles.clone(),
            password_history: history.unwrap_or_default(),
            ..UserState::default()
        }
    }
}

/// Looks up what a user record depends on; refuses one whose auth data is taken.
pub(super) async fn load_inputs(
    env: &RecordEnv,
    draft: &Draft,
    position: u64,
) -> Result<DecisionInputs, ApiError> {
    let definition = env.definition(&draft.record.id.record_type);
    env.applied.wait_for(position).await?;
    for (_, fields) in new_unique_values(draft, &definition) {
        let value = |field| Some((field, draft.record.fields.get(field)?));
        let pairs: Vec<_> = fields.into_iter().filter_map(value).collect();
        let owner = env.store.find_by_fields(&definition, &pairs).await?;
        if owner.is_some_and(|owner| owner != draft.record.id.key) {
            return Err(user_duplicated(taken()));
        }
    }
    let references = crate::record::decide::new_references(draft);
    let existing = env.load_heads(&references).await?.by_id;
    let files = env.assets.load(&new_files(draft)).await?;
    Ok(DecisionInputs {
        existing: existing.into_keys().collect(),
        files: files.into_keys().collect(),
        ..DecisionInputs::default()
    })
}

/// Returns the roles of new users.
pub(super) fn default_roles(accounts: &Accounts) -> BTreeSet<RoleName> {
    let roles = accounts.env.model.get_roles().into_iter();
    roles
        .filter(|(_, (_, flags))| flags.by_default)
        .map(|(name, _)| name)
        .collect()
}

/// Replaces the error for a taken value by the one of a sign-up.
pub(super) fn user_duplicated(error: ApiError) -> ApiError {
    if error.code == Code::Duplicated {
        ApiError::new(Code::Duplicated, "user duplicated")
    } else {
        error
    }
}
