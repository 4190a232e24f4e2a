//! The accounts actor: users, roles and relations.
//!
//! It decides as record actors do: reads at a known position, then appends what
//! rests on it. Passwords are hashed elsewhere ([`super::ports`]) and never get here
//! other than as hashes; tokens never get into the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, RoleFlags, Stream, UserPatch, UserState};
use skytrail_schema::id::{Database, RecordId, RoleName, UserId};
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::TypeDefinition;
use skytrail_schema::value::Value;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::messages::{
    ChangeRelations, ChangeRoles, LogIn, RoleFlag, Session, SetFlaggedRoles, SignUp,
};
use super::ports::{PasswordHasher, Tokens};
use super::service::{AccountService, TokenClaims};
use super::{relations, sign_up};
use crate::context::RequestContext;
use crate::record::attempt::{Outcome, commit, until_settled};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;
use crate::record::save;

/// See the module's overview.
pub struct Accounts {
    pub(super) env: RecordEnv,
    pub(super) hasher: Arc<dyn PasswordHasher>,
    tokens: Arc<dyn Tokens>,
    /// Alternatives of auth keys, in configured order.
    pub(super) auth_keys: Vec<Vec<String>>,
    pub(super) turn: Mutex<()>,
}

/// What the accounts say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccountsState {
    /// How many roles there are.
    pub num_roles: usize,
}

/// A user's auth row with the version of its stream.
pub(super) type VersionedUser = (u32, UserState);

impl Accounts {
    /// Builds the accounts; `auth_keys` are the alternatives of fields that identify a user.
    pub fn new(
        env: RecordEnv,
        hasher: Arc<dyn PasswordHasher>,
        tokens: Arc<dyn Tokens>,
        auth_keys: Vec<Vec<String>>,
    ) -> Self {
        Self {
            env,
            hasher,
            tokens,
            auth_keys,
            turn: Mutex::new(()),
        }
    }

    /// Returns the accounts' state.
    pub fn state(&self) -> AccountsState {
        AccountsState {
            num_roles: self.env.live.get_roles().len(),
        }
    }

    /// Loads a user's auth row as of the present.
    pub(super) async fn load(&self, id: &UserId) -> Result<(u64, Option<VersionedUser>), ApiError> {
        let (position, known) = self.env.live.get_user(id);
        if let Some(known) = known {
            return Ok((position, known.as_deref().cloned()));
        }
        self.env.applied.wait_for(position).await?;
        let loaded = self.env.store.load_users(std::slice::from_ref(id)).await?;
        let user = loaded.into_iter().next().flatten();
        self.env
            .live
            .keep_user(id.clone(), user.clone().map(Arc::new), position);
        Ok((position, user))
    }

    /// Changes users' auth rows until it does not conflict; `patch` sees each user as it is.
    async fn change_users(
        &self,
        users: &[UserId],
        context: &RequestContext,
        roles: &BTreeSet<RoleName>,
        patch: impl Fn(&UserState) -> Option<UserPatch> + Sync,
    ) -> Result<(), ApiError> {
        until_settled(&self.turn, |_| async {
            let mut read_position = self.env.live.position();
            let mut plan = Plan::default();
            plan.define_roles(&self.env, roles.iter());
            for id in users {
                let (position, user) = self.load(id).await?;
                read_position = read_position.min(position);
                let Some((version, state)) = user else {
                    continue;
                };
                if let Some(patch) = patch(&state) {
                    let body = EventBody::UserChanged(patch);
                    plan.push(Stream::User(id.clone()), version + 1, body);
                }
            }
            if plan.events.is_empty() {
                return Ok(Outcome::Done(()));
            }
            Ok(
                match commit(&self.env.log, plan, read_position, context).await? {
                    Outcome::Done(_) => Outcome::Done(()),
                    Outcome::Conflict => Outcome::Conflict,
                },
            )
        })
        .await
    }

    /// Builds the answer of sign-up, login and `me`, with a fresh token.
    pub(super) fn session(
        &self,
        id: &UserId,
        state: &UserState,
        profile: Option<Record>,
    ) -> Result<Session, ApiError> {
        let last_login_at = match profile
            .as_ref()
            .and_then(|it| it.fields.get("last_login_at"))
        {
            Some(Value::Date(time)) => Some(*time),
            _ => None,
        };
        Ok(Session {
            user: id.clone(),
            profile,
            roles: state.roles.clone(),
            access_token: self.tokens.issue(id, self.env.clock.now())?,
            last_login_at,
            last_seen_at: state.last_seen_at,
        })
    }

    /// Notes that a user was seen, and at a login when it was, without hooks.
    pub(super) async fn note_seen(
        &self,
        id: &UserId,
        context: &RequestContext,
        is_login: bool,
    ) -> Result<(), ApiError> {
        let now = self.env.clock.now();
        until_settled(&self.turn, |_| async {
            let (position, user) = self.load(id).await?;
            let Some((version, _)) = user else {
                return Ok(Outcome::Done(()));
            };
            let mut plan = Plan::default();
            let patch = UserPatch {
                last_seen_at: Some(now),
                ..UserPatch::default()
            };
            plan.push(
                Stream::User(id.clone()),
                version + 1,
                EventBody::UserChanged(patch),
            );
            let mut read_position = position;
            if is_login {
                let record = RecordId::user(id);
                let heads = self.env.load_heads(std::slice::from_ref(&record)).await?;
                read_position = read_position.min(heads.position);
                if let Some(head) = heads.get(&record) {
                    let definition = self.env.definition(&record.record_type);
                    plan.save(
                        &sign_up::login_draft(head, id, now),
                        &definition,
                        &Default::default(),
                    )?;
                }
            }
            Ok(
                match commit(&self.env.log, plan, read_position, context).await? {
                    Outcome::Done(_) => Outcome::Done(()),
                    Outcome::Conflict => Outcome::Conflict,
                },
            )
        })
        .await
    }

    /// Loads the user record, or makes it.
    async fn profile(
        &self,
        id: &UserId,
        context: &RequestContext,
    ) -> Result<Option<Record>, ApiError> {
        let record = RecordId::user(id);
        let heads = self.env.load_heads(std::slice::from_ref(&record)).await?;
        if let Some(head) = heads.get(&record) {
            return Ok(Some(head.record.clone()));
        }
        let mut context = context.clone();
        context.caller.user = Some(id.clone());
        context.may_migrate = true;
        let item = sign_up::item(record, Fields::new());
        let command = crate::record::messages::SaveRecords {
            context,
            database: Database::Public,
            items: vec![Ok(item)],
            is_atomic: false,
        };
        let saved = save::save(&self.env, &self.turn, command).await?;
        saved
            .into_iter()
            .next()
            .transpose()
            .map_err(|failed| failed.error)
    }
}

/// Refuses a user who is locked out.
pub(super) fn refuse_disabled(state: &UserState, now: Timestamp) -> Result<(), ApiError> {
    let Some(disabled) = &state.disabled else {
        return Ok(());
    };
    if disabled.expiry.is_some_and(|expiry| expiry <= now) {
        return Ok(());
    }
    let mut error = ApiError::new(Code::UserDisabled, "user is disabled");
    if let Some(expiry) = disabled.expiry {
        error = error.with_info("expiry", expiry.to_string().into());
    }
    if let Some(message) = &disabled.message {
        error = error.with_info("message", message.clone().into());
    }
    Err(error)
}

#[async_trait]
impl AccountService for Accounts {
    async fn sign_up(&self, command: SignUp) -> Result<Session, ApiError> {
        sign_up::sign_up(self, command).await
    }

    async fn log_in(&self, command: LogIn) -> Result<Session, ApiError> {
        let alternative = sign_up::effective_alternative(&self.auth_keys, &command.auth_data)
            .ok_or_else(|| ApiError::invalid_argument("invalid auth data", &["auth_data"]))?;
        let definition = self.env.definition(&skytrail_schema::id::TypeName::user());
        let user = self.find(&definition, &alternative, &command).await?;
        let state = match &user {
            Some(id) => self.load(id).await?.1.map(|(_, state)| state),
            None => None,
        };
        if let Some(state) = &state {
            refuse_disabled(state, self.env.clock.now())?;
        }
        let hash = state.as_ref().and_then(|state| state.password_hash.clone());
        let is_right = self.hasher.verify(command.password.clone(), hash).await?;
        let (Some(id), Some(state)) = (user, state) else {
            return Err(ApiError::new(Code::ResourceNotFound, "user not found"));
        };
        if !is_right {
            let message = "auth_data or password incorrect";
            return Err(ApiError::new(Code::InvalidCredentials, message));
        }
        let profile = self.profile(&id, &command.context).await?;
        let session = self.session(&id, &state, profile)?;
        self.note_seen(&id, &command.context, true).await?;
        Ok(session)
    }

    async fn me(&self, context: RequestContext) -> Result<Session, ApiError> {
        let missing = || ApiError::new(Code::UnexpectedAuthInfoNotFound, "user not found");
        let id = context.caller.user.clone().ok_or_else(missing)?;
        let (_, user) = self.load(&id).await?;
        let (_, state) = user.ok_or_else(missing)?;
        let profile = self.profile(&id, &context).await?;
        let session = self.session(&id, &state, profile)?;
        self.note_seen(&id, &context, false).await?;
        Ok(session)
    }

    fn read_token(&self, token: &str) -> Option<TokenClaims> {
        self.tokens.read(token, self.env.clock.now())
    }

    async fn load_user(&self, id: &UserId) -> Result<Option<UserState>, ApiError> {
        Ok(self.load(id).await?.1.map(|(_, state)| state))
    }

    async fn ensure_user(
        &self,
        id: &UserId,
        context: &RequestContext,
    ) -> Result<UserState, ApiError> {
        until_settled(&self.turn, |_| async {
            let (position, user) = self.load(id).await?;
            if let Some((_, state)) = user {
                return Ok(Outcome::Done(state));
            }
            let mut plan = Plan::default();
            let body = EventBody::UserCreated(UserState::default());
            plan.push(Stream::User(id.clone()), 1, body);
            Ok(
                match commit(&self.env.log, plan, position, context).await? {
                    Outcome::Done(_) => Outcome::Done(UserState::default()),
                    Outcome::Conflict => Outcome::Conflict,
                },
            )
        })
        .await
    }

    fn refuse_disabled(&self, state: &UserState) -> Result<(), ApiError> {
        refuse_disabled(state, self.env.clock.now())
    }

    async fn change_roles(&self, command: ChangeRoles) -> Result<(), ApiError> {
        let roles = command.roles;
        let wanted = if command.is_assignment {
            roles.clone()
        } else {
            BTreeSet::new()
        };
        self.change_users(&command.users, &command.context, &wanted, |state| {
            let roles = roles.iter().cloned();
            let patch = if command.is_assignment {
                let roles_added = roles.filter(|role| !state.roles.contains(role)).collect();
                UserPatch {
                    roles_added,
                    ..UserPatch::default()
                }
            } else {
                let roles_removed = roles.filter(|role| state.roles.contains(role)).collect();
                UserPatch {
                    roles_removed,
                    ..UserPatch::default()
                }
            };
            (patch != UserPatch::default()).then_some(patch)
        })
        .await
    }

    async fn set_flagged_roles(&self, command: SetFlaggedRoles) -> Result<(), ApiError> {
        until_settled(&self.turn, |_| async {
            let read_position = self.env.live.position();
            let mut plan = Plan::default();
            let known = self.env.live.get_roles();
            let names: BTreeSet<_> = known.keys().chain(&command.roles).cloned().collect();
            for name in names {
                let (version, before) = known.get(&name).copied().unwrap_or_default();
                let is_set = command.roles.contains(&name);
                let after = match command.flag {
                    RoleFlag::Default => RoleFlags {
                        by_default: is_set,
                        ..before
                    },
                    RoleFlag::Admin => RoleFlags {
                        is_admin: is_set,
                        ..before
                    },
                };
                if after != before || version == 0 {
                    plan.push(
                        Stream::Role(name),
                        version + 1,
                        EventBody::RoleDefined(after),
                    );
                }
            }
            if plan.events.is_empty() {
                return Ok(Outcome::Done(()));
            }
            Ok(
                match commit(&self.env.log, plan, read_position, &command.context).await? {
                    Outcome::Done(_) => Outcome::Done(()),
                    Outcome::Conflict => Outcome::Conflict,
                },
            )
        })
        .await
    }

    async fn roles_of(
        &self,
        users: &[UserId],
    ) -> Result<BTreeMap<UserId, BTreeSet<RoleName>>, ApiError> {
        let mut roles = BTreeMap::new();
        for id in users {
            let (_, user) = self.load(id).await?;
            roles.insert(
                id.clone(),
                user.map(|(_, state)| state.roles).unwrap_or_default(),
            );
        }
        Ok(roles)
    }

    fn is_admin(&self, roles: &BTreeSet<RoleName>) -> bool {
        let known = self.env.live.get_roles();
        roles
            .iter()
            .any(|role| known.get(role).is_some_and(|(_, flags)| flags.is_admin))
    }

    async fn change_relations(
        &self,
        command: ChangeRelations,
    ) -> Result<Vec<Result<UserId, ApiError>>, ApiError> {
        relations::change(self, command).await
    }
}

impl Accounts {
    /// Finds the user whose record has the alternative's values.
    async fn find(
        &self,
        definition: &TypeDefinition,
        alternative: &[String],
        command: &LogIn,
    ) -> Result<Option<UserId>, ApiError> {
        if !definition.is_created {
            return Ok(None);
        }
        self.env.applied.wait_for(self.env.log.head()).await?;
        let values = alternative.iter().filter_map(|key| {
            command
                .auth_data
                .get(key)
                .map(|value| (key.as_str(), value))
        });
        let values: Vec<_> = values.collect();
        let found = self.env.store.find_by_fields(definition, &values).await?;
        Ok(found.map(|key| UserId::new(key.as_str())))
    }

    /// Returns a fresh user id.
    pub(super) fn new_user_id() -> UserId {
        UserId::new(Uuid::new_v4().to_string())
    }
}
