//! Setting passwords: a password is judged and hashed, and becomes one event.
//!
//! Judging and hashing take long, so they work on the user's state as it was read. The event is
//! appended only if the user still has the hash that was judged.

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, PasswordRehashed, Stream, UserState};
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::record::Fields;
use skytrail_schema::time::Timestamp;

use super::Accounts;
use super::messages::{ChangePassword, Password, ResetPassword, Session};
use super::policy;
use crate::context::RequestContext;

/// How many times a change is judged again because another change was quicker.
const MAX_ATTEMPTS: u32 = 5;

impl Accounts {
    /// Changes the caller's own password; tokens issued before are refused from then on.
    ///
    /// # Errors
    /// 105 for a wrong old password, 126 for one that the policy refuses.
    pub async fn change_password(&self, command: ChangePassword) -> Result<Session, ApiError> {
        let context = &command.context;
        let id = context
            .caller
            .user
            .clone()
            .ok_or_else(|| ApiError::new(Code::UnexpectedAuthInfoNotFound, "user not found"))?;
        for _ in 0..MAX_ATTEMPTS {
            let user = self.load_known(&id).await?;
            let old = Some(command.old.clone());
            if !self.hasher.verify(old, user.password_hash.clone()).await? {
                let message = "Incorrect old password";
                return Err(ApiError::new(Code::InvalidCredentials, message));
            }
            let user_data = self.load_fields(&id).await?;
            self.check_password(&command.new, &user_data, &user).await?;
            let hash = self.hasher.hash(command.new.clone()).await?;
            if let Some(user) = self.set_password(&id, &user, hash, context).await? {
                return self.signed_in(&id, &user, context).await;
            }
        }
        Err(ApiError::overloaded("the user"))
    }

    /// Gives a user a new password; tokens issued before are refused from then on.
    ///
    /// The policy does not see the user's data, as in v1.
    ///
    /// # Errors
    /// 10001 without such a user, 10005 without a user record, 126.
    pub async fn reset_password(&self, command: ResetPassword) -> Result<Session, ApiError> {
        let (context, id) = (&command.context, &command.user);
        for _ in 0..MAX_ATTEMPTS {
            let user = self.load_known(id).await?;
            let (_, record) = self.env.load_head(&RecordId::user(id)).await?;
            if record.is_none() {
                let message = "user record not found";
                return Err(ApiError::new(Code::UnexpectedUserNotFound, message));
            }
            self.check_password(&command.new, &Fields::new(), &user)
                .await?;
            let hash = self.hasher.hash(command.new.clone()).await?;
            if let Some(user) = self.set_password(id, &user, hash, context).await? {
                return self.signed_in(id, &user, context).await;
            }
        }
        Err(ApiError::overloaded("the user"))
    }

    /// Refuses a user whose password has expired.
    ///
    /// # Errors
    /// 126 (401) if it must be changed.
    pub fn refuse_expired_password(&self, user: &UserState) -> Result<(), ApiError> {
        let now = self.env.clock.now();
        self.settings.policy.refuse_expired(user, now)
    }

    /// Returns when a user's password must be changed, if ever.
    pub fn password_expiry(&self, user: &UserState) -> Option<Timestamp> {
        self.settings.policy.expiry(user)
    }

    /// Judges a new password by the policy; the cheap rules first.
    ///
    /// # Errors
    /// 126 with the rule, or overload.
    pub(super) async fn check_password(
        &self,
        password: &Password,
        user_data: &Fields,
        user: &UserState,
    ) -> Result<(), ApiError> {
        let policy = &self.settings.policy;
        policy.check_text(password, user_data)?;
        if policy.min_guessable_level > 0 {
            let user_texts = policy::texts_of(user_data);
            let level = self
                .hasher
                .guess_level(password.clone(), user_texts)
                .await?;
            policy.check_level(level)?;
        }
        let forbidden = policy.forbidden_hashes(user, self.env.clock.now());
        if !forbidden.is_empty() && self.hasher.verify_any(password.clone(), forbidden).await? {
            return Err(policy.reused());
        }
        Ok(())
    }

    /// Hashes a password that is known to be right again, if its hash is of an old kind. A failure
    /// does not make the login fail.
    pub(super) async fn renew_hash(
        &self,
        id: &UserId,
        old: Option<String>,
        password: Option<Password>,
        context: &RequestContext,
    ) {
        let (Some(old), Some(password)) = (old, password) else {
            return;
        };
        // The part of a password that the old hash does not cover may be a mistake.
        if !self.hasher.is_outdated(&old) || !self.hasher.covers(&old, &password) {
            return;
        }
        let renewed = async {
            let hash = self.hasher.hash(password).await?;
            let body = EventBody::UserPasswordRehashed(PasswordRehashed { hash });
            self.change_if(id, Some(&old), &body, context).await
        };
        if let Err(error) = renewed.await {
            tracing::warn!(user_id = %id, %error, "a password's hash could not be renewed");
        }
    }

    /// Appends a new password; `None` if the user's password is no longer the one in `judged`.
    async fn set_password(
        &self,
        id: &UserId,
        judged: &UserState,
        hash: String,
        context: &RequestContext,
    ) -> Result<Option<UserState>, ApiError> {
        let now = self.env.clock.now();
        // Later than the last one, whatever the clock says, so that older tokens count as older.
        let last = judged.token_valid_since;
        let at = last.map_or(now, |last| {
            now.max(Timestamp::from_micros(last.micros() + 1))
        });
        let set = self.settings.policy.set(judged, hash, at);
        let body = EventBody::UserPasswordSet(set);
        let current = judged.password_hash.as_ref();
        if !self.change_if(id, current, &body, context).await? {
            return Ok(None);
        }
        let state = self.load_known(id).await?;
        Ok(Some(UserState {
            token_valid_since: Some(at),
            ..state
        }))
    }

    /// Appends an event for a user if the hash of their password is still `hash`; otherwise returns
    /// false.
    async fn change_if(
        &self,
        id: &UserId,
        hash: Option<&String>,
        body: &EventBody,
        context: &RequestContext,
    ) -> Result<bool, ApiError> {
        self.change_user(id, context, |plan, (version, state)| {
            if state.password_hash.as_ref() == hash {
                plan.push(Stream::User(id.clone()), version + 1, body.clone());
            }
        })
        .await
    }

    /// Returns the session of a user who has just received a new password.
    async fn signed_in(
        &self,
        id: &UserId,
        user: &UserState,
        context: &RequestContext,
    ) -> Result<Session, ApiError> {
        let profile = self.profile(id, context).await?;
        self.session(id, user, profile, context).await
    }

    /// Loads the fields of a user's record.
    async fn load_fields(&self, id: &UserId) -> Result<Fields, ApiError> {
        let (_, head) = self.env.load_head(&RecordId::user(id)).await?;
        let fields = head.map(|head| head.record.fields.clone());
        Ok(fields.unwrap_or_default())
    }
}
