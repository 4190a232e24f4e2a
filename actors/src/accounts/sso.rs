//! Accounts elsewhere that sign users in: at OAuth providers, at servers that issue custom tokens,
//! at plugins' auth providers.
//!
//! Somebody whom the server trusts vouches for an account; here it is a [`Service`] and a name
//! there, the *principal*. A principal belongs to at most one user: a decision to link one has read
//! that it is free, and the log refuses the decision if that has changed.

use std::collections::BTreeSet;

use skytrail_schema::auth_keys::AuthData;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{
    AccountLinked, AccountUnlinked, EventBody, Service, Stream, UserState,
};
use skytrail_schema::id::{Database, RecordId, UserId, check_length};
use skytrail_schema::record::Fields;
use skytrail_schema::time::Timestamp;

use super::Accounts;
use super::messages::{
    Account, Arrival, LinkAccount, LogInWithAccount, Session, SignUpWithAccount, UnlinkAccount,
};
use super::session::Login;
use super::sign_up::{self, NewUser};
use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::record::apply;
use crate::record::attempt::{commit, retry_on_conflict, turn_of};
use crate::record::decide::Plan;
use crate::record::draft::taken;
use crate::record::messages::{Precondition, SaveRecords};
use crate::record::save;

impl Accounts {
    /// Signs in the user to whom an account elsewhere is linked; creates a user for it if that is
    /// allowed.
    ///
    /// # Errors
    /// 105 if it is linked to nobody and no user is created, 127 for a disabled user, and whatever
    /// saving the user record refuses with.
    pub async fn log_in_with_account(
        &self,
        command: LogInWithAccount,
    ) -> Result<Arrival, ApiError> {
        let LogInWithAccount {
            context,
            account,
            fields,
            may_sign_up,
        } = command;
        let position = self.env.model.position();
        let user = match find(self, &account, position).await? {
            Some(user) => Some(user),
            None if !may_sign_up => None,
            None => {
                let new_user = new_user(&context, &account, &fields);
                if let Some(session) = new_user.create(self).await? {
                    return Ok(Arrival {
                        session,
                        is_new: true,
                    });
                }
                // Another request has created the user first.
                find(self, &account, self.env.model.position()).await?
            }
        };
        let no_user = || ApiError::new(Code::InvalidCredentials, "no connected user");
        let user = user.ok_or_else(no_user)?;
        let session = enter(self, &user, &context, (&account, fields)).await?;
        Ok(Arrival {
            session,
            is_new: false,
        })
    }

    /// Creates a user without a password for an account elsewhere.
    ///
    /// # Errors
    /// 108 if the account is linked already; those of [`Accounts::sign_up`].
    pub async fn sign_up_with_account(
        &self,
        command: SignUpWithAccount,
    ) -> Result<Session, ApiError> {
        let account = &command.account;
        let connected = || match account.service {
            Service::Provider(_) => sign_up::user_duplicated(taken()),
            _ => ApiError::new(Code::InvalidArgument, "user already connected"),
        };
        let position = self.env.model.position();
        // Checked before hooks run in vain; it is checked again when the user is created.
        if find(self, account, position).await?.is_some() {
            return Err(connected());
        }
        let mut new_user = new_user(&command.context, account, &command.fields);
        if matches!(account.service, Service::Provider(_)) {
            new_user.roles = sign_up::default_roles(self);
        }
        new_user.create(self).await?.ok_or_else(connected)
    }

    /// Links an account elsewhere to a user.
    ///
    /// # Errors
    /// 108 if the account is linked, or the user has one at the service; 110 without such a user.
    pub async fn link_account(&self, command: LinkAccount) -> Result<(), ApiError> {
        let env = &self.env;
        let LinkAccount {
            context,
            user,
            account,
        } = &command;
        let refused = |code, message: &str| Err(ApiError::new(code, message));
        retry_on_conflict(turn_of(&self.turn, context), |_| async {
            let position = env.model.position();
            if find(self, account, position).await?.is_some() {
                let message = "provider account already linked with existing user";
                return refused(Code::InvalidArgument, message);
            }
            let (read_position, loaded) = self.load(user).await?;
            let Some((version, state)) = loaded else {
                return refused(Code::ResourceNotFound, "user not found");
            };
            if !principals(&state, &account.service).is_empty() {
                let message = "user linked to the provider already";
                return refused(Code::InvalidArgument, message);
            }
            let mut plan = Plan::default();
            plan_link(&mut plan, (user, version + 1), account, env.clock.now());
            let read_position = read_position.min(position);
            let committed = commit(&env.log, plan, read_position, context).await?;
            Ok(committed.discard())
        })
        .await
    }

    /// Unlinks a user's account at a service.
    ///
    /// # Errors
    /// 110 without such a user, or such an account.
    pub async fn unlink_account(&self, command: UnlinkAccount) -> Result<(), ApiError> {
        let UnlinkAccount {
            context,
            user,
            service,
        } = &command;
        let unlinked = self.change_user(user, context, |plan, (version, state)| {
            let principals = principals(&state, service);
            if principals.is_empty() {
                return;
            }
            for principal in principals {
                // A decision that found it taken must look again.
                plan.writes
                    .insert(ConflictKey::principal(service, &principal));
            }
            let body = EventBody::AccountUnlinked(AccountUnlinked {
                service: service.clone(),
            });
            plan.push(Stream::User(user.clone()), version + 1, body);
        });
        if unlinked.await? {
            return Ok(());
        }
        let message = match self.load(user).await? {
            (_, Some(_)) => format!("no account of {service} is linked to the user"),
            (_, None) => "user not found".to_owned(),
        };
        Err(ApiError::new(Code::ResourceNotFound, message))
    }
}

/// Finds the user to whom an account elsewhere is linked, as of `position` or later.
pub(super) async fn find(
    accounts: &Accounts,
    account: &Account,
    position: u64,
) -> Result<Option<UserId>, ApiError> {
    // Every account is looked up here before it is linked.
    check_length("an account's id", &account.principal)?;
    if let Service::OAuth(name) | Service::Provider(name) = &account.service {
        check_length("a provider's name", name)?;
    }
    let env = &accounts.env;
    env.applied.wait_for(position).await?;
    let found = env.store.find_linked(&account.service, &account.principal);
    Ok(found.await?)
}

/// Adds the linking of an account to a plan. The account must have been found free.
pub(super) fn plan_link(
    plan: &mut Plan,
    (user, version): (&UserId, u32),
    account: &Account,
    now: Timestamp,
) {
    let key = ConflictKey::principal(&account.service, &account.principal);
    plan.reads.insert(key);
    plan.writes.insert(key);
    let body = EventBody::AccountLinked(AccountLinked {
        service: account.service.clone(),
        principal: account.principal.clone(),
        profile: account.profile.clone(),
        at: now,
    });
    plan.push(Stream::User(user.clone()), version, body);
}

/// Returns a new user for an account elsewhere: without a password, and as in v1 without default
/// roles. The caller adds those for a provider.
fn new_user(context: &RequestContext, account: &Account, fields: &Fields) -> NewUser {
    NewUser {
        context: context.clone(),
        hash: None,
        auth_data: AuthData::new(),
        profile: fields.clone(),
        roles: BTreeSet::new(),
        account: Some(account.clone()),
    }
}

/// Signs in a user to whom an account elsewhere is linked.
async fn enter(
    accounts: &Accounts,
    user: &UserId,
    context: &RequestContext,
    (account, fields): (&Account, Fields),
) -> Result<Session, ApiError> {
    let state = accounts.ensure_user(user, context).await?;
    state.check_enabled(accounts.env.clock.now())?;
    let mut context = context.clone();
    context.caller.user = Some(user.clone());
    context.caller.roles.clone_from(&state.roles);
    if !fields.is_empty() {
        merge(accounts, user, &context, fields).await?;
    }
    refresh(accounts, user, &context, account).await?;
    let profile = accounts.profile(user, &context).await?;
    let session = accounts.session(user, &state, profile, &context).await?;
    let login = Some(Login::Service(account.service.clone()));
    accounts.note_seen(user, &context, login).await?;
    Ok(session)
}

/// Saves fields to the user's record as the user would.
async fn merge(
    accounts: &Accounts,
    user: &UserId,
    context: &RequestContext,
    fields: Fields,
) -> Result<(), ApiError> {
    let command = SaveRecords {
        context: context.clone(),
        database: Database::Public,
        items: vec![Ok(sign_up::item(RecordId::user(user), fields))],
        is_atomic: false,
        precondition: Precondition::Nothing,
        name_limit: None,
    };
    let saved = save::save(&accounts.env, &accounts.turns, command).await?;
    let failed = saved.into_iter().find_map(Result::err);
    failed.map_or(Ok(()), |failed| Err(sign_up::user_duplicated(failed.error)))
}

/// Records what the service now says about the account, if that has changed.
async fn refresh(
    accounts: &Accounts,
    user: &UserId,
    context: &RequestContext,
    account: &Account,
) -> Result<(), ApiError> {
    let refreshed = accounts.change_user(user, context, |plan, (version, state)| {
        if is_stale(&state, account) {
            let now = accounts.env.clock.now();
            plan_link(plan, (user, version + 1), account, now);
        }
    });
    refreshed.await.map(drop)
}

/// Whether the account is linked with a different profile.
fn is_stale(state: &UserState, account: &Account) -> bool {
    let stored = match &account.service {
        Service::Provider(name) => state
            .provider_info
            .get(&apply::provider_key(name, &account.principal)),
        service => {
            let link = state.links.get(service);
            let link = link.filter(|link| link.principal == account.principal);
            link.map(|link| &link.profile)
        }
    };
    stored.is_some_and(|stored| *stored != account.profile)
}

/// Adds to a plan that all the user's accounts elsewhere become free.
pub(crate) fn plan_release(plan: &mut Plan, state: &UserState) {
    let linked = state.links.iter();
    let linked = linked.map(|(service, link)| (service.clone(), link.principal.clone()));
    let provided = state.provider_info.keys().filter_map(|key| {
        let (name, principal) = key.split_once(':')?;
        Some((Service::Provider(name.to_owned()), principal.to_owned()))
    });
    for (service, principal) in linked.chain(provided) {
        // A decision that found it taken must look again.
        let key = ConflictKey::principal(&service, &principal);
        plan.writes.insert(key);
    }
}

/// Returns the user's accounts at a service.
fn principals(state: &UserState, service: &Service) -> Vec<String> {
    if let Service::Provider(name) = service {
        let keys = state.provider_info.keys();
        let of_service = |key: &String| Some(key.strip_prefix(name)?.strip_prefix(':')?.to_owned());
        return keys.filter_map(of_service).collect();
    }
    let link = state.links.get(service);
    link.map(|link| link.principal.clone())
        .into_iter()
        .collect()
}
