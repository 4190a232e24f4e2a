//! Signing up: auth row and user record in one commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, Stream, UserState};
use skytrail_schema::id::{Database, RecordId, RoleName, UserId};
use skytrail_schema::record::{Fields, Head};
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;
use uuid::Uuid;

use super::actor::Accounts;
use super::messages::{Session, SignUp};
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
    let id = Accounts::new_user_id();
    let mut fields = command.profile.clone();
    fields.extend(
        command
            .auth_data
            .clone()
            .into_iter()
            .filter(|(_, value)| !value.is_null()),
    );
    let mut context = command.context.clone();
    context.caller.user = Some(id.clone());
    let record_id = RecordId::user(&id);
    types::extend_by(&accounts.env, [(&record_id, &fields)].into_iter(), &context).await?;
    let newcomer = Newcomer {
        id,
        hash,
        item: item(record_id, fields),
        context,
    };
    let attempt_id = Uuid::now_v7();
    let (state, head) = until_settled(&accounts.turn, |_| {
        newcomer.attempt(accounts, &command, attempt_id)
    })
    .await?;
    let (env, record) = (&accounts.env, &head.record);
    if !env
        .plugins
        .points()
        .hooks(&record.id.record_type, Trigger::AfterSave)
        .is_empty()
    {
        env.applied.wait_for(head.position).await?;
        let context = &command.context;
        hooks::run(
            &env.plugins,
            hooks::Occasion {
                trigger: Trigger::AfterSave,
                context,
                attempt: attempt_id,
            },
            record,
            None,
        )
        .await?;
    }
    let mut session = accounts.session(&newcomer.id, &state, Some(record.clone()))?;
    session.last_seen_at = None;
    accounts
        .note_seen(&newcomer.id, &newcomer.context, true)
        .await?;
    Ok(session)
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

struct Newcomer {
    id: UserId,
    hash: Option<String>,
    item: SaveItem,
    context: crate::context::RequestContext,
}

impl Newcomer {
    async fn attempt(
        &self,
        accounts: &Accounts,
        command: &SignUp,
        attempt_id: Uuid,
    ) -> Result<Outcome<(UserState, Arc<Head>)>, ApiError> {
        let env = &accounts.env;
        let position = env.live.position();
        let definition = env.definition(&self.item.id.record_type);
        let at = DraftContext {
            caller: &self.context.caller,
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
        hooks::before_save(&env.plugins, &mut draft, &command.context, attempt_id).await?;
        let brought = (draft.record.id.clone(), draft.record.fields.clone());
        types::extend_by(env, [(&brought.0, &brought.1)].into_iter(), &self.context).await?;
        let definition = env.definition(&self.item.id.record_type);
        let around = self.look_around(accounts, &draft, position).await?;

        let mut plan = Plan::default();
        let state = UserState {
            password_hash: self.hash.clone(),
            token_valid_since: self.hash.as_ref().map(|_| env.clock.now()),
            roles: default_roles(accounts),
            ..UserState::default()
        };
        plan.push(
            Stream::User(self.id.clone()),
            1,
            EventBody::UserCreated(state.clone()),
        );
        plan.save(&draft, &definition, &around)
            .map_err(user_duplicated)?;
        match commit(&env.log, plan, position, &self.context).await? {
            Outcome::Conflict => Ok(Outcome::Conflict),
            Outcome::Done(commit) => {
                let head = head_after(None, &draft.record.id, &commit.events);
                let head = head.ok_or_else(|| ApiError::unexpected("the user was not stored"))?;
                Ok(Outcome::Done((state, head)))
            }
        }
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

fn default_roles(accounts: &Accounts) -> std::collections::BTreeSet<RoleName> {
    let roles = accounts.env.live.get_roles().into_iter();
    roles
        .filter(|(_, (_, flags))| flags.by_default)
        .map(|(name, _)| name)
        .collect()
}

fn user_duplicated(error: ApiError) -> ApiError {
    if error.code == Code::Duplicated {
        ApiError::new(Code::Duplicated, "user duplicated")
    } else {
        error
    }
}
