//! Importing users from another server: auth row and user record in one commit, without hooks.

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, Origin, PastPassword, Stream, UserState};
use skytrail_schema::id::{Database, RecordId, UserId, check_length};
use skytrail_schema::record::Record;
use skytrail_schema::time::Timestamp;

use super::Accounts;
use super::messages::{ImportRoles, ImportUser};
use super::sign_up::{self, given, load_inputs, user_duplicated};
use super::sso;
use crate::context::RequestContext;
use crate::import::{Outcome as ImportOutcome, belongs_to_other_user, plan_roles};
use crate::log::ConflictKey;
use crate::record::attempt::{Outcome, commit, retry_on_conflict, turn_of};
use crate::record::decide::Plan;
use crate::record::draft::{Draft, DraftContext, create_unchecked};
use crate::record::messages::SaveItem;
use crate::record::types;

impl Accounts {
    /// Imports a user from another server. An existing record keeps its other fields. Durable when
    /// it returns.
    ///
    /// # Errors
    /// 109 for a user who exists already or auth data that is taken, 108 for something that is not
    /// a hash.
    pub async fn import_user(&self, command: ImportUser) -> Result<(), ApiError> {
        check(self, &command)?;
        let mut fields = command.profile.clone();
        fields.extend(given(&command.auth_data));
        let record = RecordId::user(&command.user);
        let mut context = command.context.clone();
        context.caller.user = Some(command.user.clone());
        let env = &self.env;
        types::extend_by(env, [(&record, &fields)].into_iter(), &context).await?;
        let item = sign_up::item(record, fields);
        retry_on_conflict(turn_of(&self.turn, &command.context), |_| {
            attempt(self, &command, &item, &context)
        })
        .await
    }

    /// Imports roles from another server; returns an outcome for each. Roles that exist stay as
    /// they are. Durable when it returns.
    ///
    /// # Errors
    /// Overload.
    pub async fn import_roles(&self, command: ImportRoles) -> Result<Vec<ImportOutcome>, ApiError> {
        let env = &self.env;
        let context = RequestContext {
            origin: Origin::Import,
            ..command.context.clone()
        };
        retry_on_conflict(turn_of(&self.turn, &context), |_| async {
            let position = env.model.position();
            let (plan, outcomes) = plan_roles(env, &command.roles);
            if command.is_dry || plan.events.is_empty() {
                return Ok(Outcome::Done(outcomes));
            }
            let done = commit(&env.log, plan, position, &context).await?;
            Ok(match done.discard() {
                Outcome::Done(()) => Outcome::Done(outcomes),
                Outcome::Conflict => Outcome::Conflict,
            })
        })
        .await
    }
}

fn check(accounts: &Accounts, command: &ImportUser) -> Result<(), ApiError> {
    let invalid = ApiError::invalid_argument;
    if command.user.as_str().is_empty() {
        return Err(invalid("empty id", &["id"]));
    }
    check_length("a user's id", command.user.as_str())?;
    let is_identified = accounts.settings.auth_keys.effective(&command.auth_data);
    if !command.auth_data.is_empty() && is_identified.is_none() {
        return Err(sign_up::invalid_auth_data());
    }
    let message = "not a bcrypt or Argon2id hash of reasonable cost";
    let mut hashes = command.password_hash.iter();
    if !hashes.all(|hash| accounts.hasher.is_hash(hash)) {
        return Err(invalid(message, &["password_hash"]));
    }
    let mut past = command.password_history.iter();
    if !past.all(|past| accounts.hasher.is_hash(&past.hash)) {
        return Err(invalid(message, &["password_history"]));
    }
    Ok(())
}

async fn attempt(
    accounts: &Accounts,
    command: &ImportUser,
    item: &SaveItem,
    context: &RequestContext,
) -> Result<Outcome<()>, ApiError> {
    let env = &accounts.env;
    let (user_position, existing) = accounts.load(&command.user).await?;
    if existing.is_some() {
        let message = "a user with this id already exists";
        return Err(ApiError::new(Code::Duplicated, message));
    }
    let (position, original) = env.load_head(&item.id).await?;
    let position = position.min(user_position);
    let definition = env.definition(&item.id.record_type);
    let now = env.clock.now();
    let at = DraftContext {
        caller: &context.caller,
        database: &Database::Public,
        definition: &definition,
        now,
    };
    let stored = original.as_ref().map(|head| &head.record);
    refuse_private(stored)?;
    let belongs_to_user = stored.is_none_or(|stored| stored.owner.as_ref() == Some(&command.user));
    let is_there = belongs_to_user && stored.is_some_and(|stored| has_all(stored, item));
    let record = match stored.filter(|stored| !belongs_to_other_user(stored)) {
        Some(stored) => merged(stored, (item, &command.user), now),
        None => create_unchecked(item, at),
    };
    let draft = Draft {
        record,
        original,
        provenance: Vec::new(),
        left_out: Default::default(),
    };
    let inputs = load_inputs(env, &draft, position).await?;
    let mut plan = Plan::default();
    plan.define_roles(env, command.roles.iter());
    let body = EventBody::UserCreated(auth_row(accounts, command, now));
    plan.push(Stream::User(command.user.clone()), 1, body);
    for (version, account) in (2..).zip(&command.accounts) {
        if sso::find(accounts, account, position).await?.is_some() {
            let message = format!(
                "{} {} is already linked",
                account.service, account.principal
            );
            return Err(ApiError::new(Code::Duplicated, message));
        }
        sso::plan_link(&mut plan, (&command.user, version), account, now);
    }
    // If the record has everything already from an earlier import, it stays as it is, with its
    // times.
    if is_there {
        plan.reads.insert(ConflictKey::record(&item.id));
    } else if belongs_to_user {
        plan.save(&draft, &definition, &inputs)
            .map_err(user_duplicated)?;
    } else {
        // A patch cannot change the owner.
        plan.save_whole(&draft, &definition, &inputs)
            .map_err(user_duplicated)?;
    }
    let context = RequestContext {
        origin: Origin::Import,
        ..command.context.clone()
    };
    let done = commit(&env.log, plan, position, &context).await?;
    Ok(done.discard())
}

/// Refuses a user whose record is in somebody's private database.
fn refuse_private(stored: Option<&Record>) -> Result<(), ApiError> {
    let private = stored.filter(|stored| stored.database != Database::Public);
    private.map_or(Ok(()), |stored| {
        let (id, owner) = (&stored.id, stored.database.as_stored());
        let message = format!("{id} is in the private database of {owner}: erase it there first");
        Err(ApiError::new(Code::Duplicated, message))
    })
}

/// Whether a record already has everything that the import brings.
fn has_all(stored: &Record, item: &SaveItem) -> bool {
    let mut fields = item.fields.iter();
    fields.all(|(name, value)| stored.fields.get(name) == Some(value))
}

fn merged(stored: &Record, (item, user): (&SaveItem, &UserId), now: Timestamp) -> Record {
    let mut record = stored.clone();
    record.owner = Some(user.clone());
    record.fields.extend(item.fields.clone());
    record.updated_at = now;
    record
}

fn auth_row(accounts: &Accounts, command: &ImportUser, now: Timestamp) -> UserState {
    let erased_at = accounts.env.assets.erasures.time_of_user(&command.user);
    let set_at = command.token_valid_since.unwrap_or(now);
    let policy = &accounts.settings.policy;
    let mut history = command.password_history.clone();
    if let Some(hash) = &command.password_hash
        && history.iter().all(|past| past.hash != *hash)
    {
        let hash = hash.clone();
        history.insert(0, PastPassword { hash, set_at });
    }
    UserState {
        password_hash: command.password_hash.clone(),
        // An erased user has no sessions, and gets none back with the id.
        token_valid_since: command.token_valid_since.max(erased_at),
        roles: command.roles.clone(),
        disabled: command.disabled.clone(),
        last_seen_at: command.last_seen_at,
        password_history: policy.keep(history, now),
        ..UserState::default()
    }
}
