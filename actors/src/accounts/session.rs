//! What a signed-in user is told, and what is recorded about them.

use std::collections::BTreeSet;

use skytrail_schema::auth_keys::LAST_LOGIN;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{
    EventBody, LoggedIn, NoDetails, Service, Stream, UserPatch, UserState,
};
use skytrail_schema::id::{Database, RecordId, UserId};
use skytrail_schema::record::{Fields, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;

use super::Accounts;
use super::admission::{is_out_of_space, refuse_revoked};
use super::messages::Session;
use super::ports::TokenClaims;
use super::sign_up;
use crate::context::RequestContext;
use crate::record::attempt::{Outcome, commit, retry_on_conflict, turn_of};
use crate::record::decide::Plan;
use crate::record::save;

/// How a user signs in.
#[derive(Clone, Debug)]
pub(super) enum Login {
    /// With a password and auth data with these names.
    Password(BTreeSet<String>),
    /// This service vouches for the user.
    Service(Service),
}

impl Login {
    fn at(&self, at: Timestamp) -> LoggedIn {
        let (keys, service) = match self {
            Self::Password(keys) => (keys.clone(), None),
            Self::Service(service) => (BTreeSet::new(), Some(service.clone())),
        };
        LoggedIn { at, keys, service }
    }
}

impl Accounts {
    /// Returns the caller's session with a fresh token; creates the user record if it is missing.
    /// A failure to record that the user was seen does not make it fail. `as_of` is that of the
    /// token that the caller presented, if any.
    ///
    /// # Errors
    /// 10001 without such a user; 104 if the user has received a new password meanwhile.
    pub async fn me(
        &self,
        context: RequestContext,
        as_of: Option<Timestamp>,
    ) -> Result<Session, ApiError> {
        let missing = || ApiError::new(Code::UnexpectedAuthInfoNotFound, "user not found");
        let id = context.caller.user.clone().ok_or_else(missing)?;
        let (_, user) = self.load(&id).await?;
        let (_, state) = user.ok_or_else(missing)?;
        // The user may have received a new password since the token was checked.
        refuse_revoked(&state, as_of)?;
        // To apps this is a read: it is answered even when nothing can be written.
        let profile = match self.profile(&id, &context).await {
            Err(error) if is_out_of_space(&error) => None,
            loaded => loaded?,
        };
        let session = self.session(&id, &state, profile, &context).await?;
        if let Err(error) = self.note_seen(&id, &context, None).await {
            tracing::warn!(user_id = %id, %error, "when a user was seen could not be written");
        }
        Ok(session)
    }

    /// Reads a token; `None` if it is not one of ours, has expired, or is no longer valid in
    /// itself.
    ///
    /// # Errors
    /// The token store does not answer.
    pub async fn read_token(&self, token: &str) -> Result<Option<TokenClaims>, ApiError> {
        self.tokens.read(token, self.env.clock.now()).await
    }

    /// Signs the caller out: forgets the token, if tokens are stored, then records the log-out. A
    /// failure to record it does not make the log-out fail.
    ///
    /// # Errors
    /// Those of [`Accounts::read_token`].
    pub async fn log_out(
        &self,
        token: Option<&str>,
        context: &RequestContext,
    ) -> Result<(), ApiError> {
        let Some(token) = token else { return Ok(()) };
        self.tokens.forget(token).await?;
        let Some(id) = &context.caller.user else {
            return Ok(());
        };
        let noted = self.change_user(id, context, |plan, (version, _)| {
            let body = EventBody::UserLoggedOut(NoDetails {});
            plan.push(Stream::User(id.clone()), version + 1, body);
        });
        if let Err(error) = noted.await {
            tracing::warn!(user_id = %id, %error, "a log-out could not be written to the log");
        }
        Ok(())
    }

    /// Builds the answer of sign-up, login and `me`, with a fresh token. `state` is the state that
    /// the admission was decided on. The profile is shown as its user may see it.
    pub(super) async fn session(
        &self,
        id: &UserId,
        state: &UserState,
        mut profile: Option<Record>,
        context: &RequestContext,
    ) -> Result<Session, ApiError> {
        if let Some(record) = &mut profile {
            self.env.assets.sign(record);
        }
        let last_login_at = match profile.as_ref().and_then(|it| it.fields.get(LAST_LOGIN)) {
            Some(Value::Date(time)) => Some(*time),
            _ => None,
        };
        if let Some(record) = &mut profile {
            let viewer = Caller {
                key: context.caller.key,
                rights: context.caller.rights,
                user: Some(id.clone()),
                roles: state.roles.clone(),
            };
            let rules = self.env.model.get_field_rules();
            rules.hide_unreadable(&viewer, record);
        }
        let (valid_since, now) = (state.token_valid_since, self.env.clock.now());
        Ok(Session {
            user: id.clone(),
            profile,
            roles: state.roles.clone(),
            access_token: self.tokens.issue(id, valid_since, now).await?,
            last_login_at,
            last_seen_at: state.last_seen_at,
        })
    }

    /// Records that a user was seen, and at a login also how and when, without hooks. A login
    /// counts as the user's own action.
    pub(super) async fn note_seen(
        &self,
        id: &UserId,
        context: &RequestContext,
        login: Option<Login>,
    ) -> Result<(), ApiError> {
        let mut context = context.clone();
        if login.is_some() {
            context.caller.user = Some(id.clone());
        }
        let now = self.env.clock.now();
        retry_on_conflict(turn_of(&self.turn, &context), |_| async {
            let (position, user) = self.load(id).await?;
            let Some((version, _)) = user else {
                return Ok(Outcome::Done(()));
            };
            let mut plan = Plan::default();
            let body = match &login {
                Some(login) => EventBody::UserLoggedIn(login.at(now)),
                None => EventBody::UserChanged(UserPatch {
                    last_seen_at: Some(now),
                    ..UserPatch::default()
                }),
            };
            plan.push(Stream::User(id.clone()), version + 1, body);
            let mut read_position = position;
            if login.is_some() {
                let record = RecordId::user(id);
                let (record_position, head) = self.env.load_head(&record).await?;
                read_position = read_position.min(record_position);
                if let Some(head) = head {
                    let definition = self.env.definition(&record.record_type);
                    plan.save(
                        &sign_up::login_draft(&head, id, now),
                        &definition,
                        &Default::default(),
                    )?;
                }
            }
            let done = commit(&self.env.log, plan, read_position, &context).await?;
            Ok(done.discard())
        })
        .await
    }

    /// Loads the user record, or creates it.
    pub(super) async fn profile(
        &self,
        id: &UserId,
        context: &RequestContext,
    ) -> Result<Option<Record>, ApiError> {
        let record = RecordId::user(id);
        let (_, stored) = self.env.load_head(&record).await?;
        if let Some(head) = stored.filter(|head| head.record.database == Database::Public) {
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
            precondition: crate::record::messages::Precondition::Nothing,
            name_limit: None,
        };
        let saved = save::save(&self.env, &self.turns, command).await?;
        saved
            .into_iter()
            .next()
            .transpose()
            .map_err(|failed| failed.error)
    }
}
