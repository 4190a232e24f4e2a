//! Who may act: users who are locked out, tokens that were revoked, users who were erased, users
//! who must be verified.

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, NoDetails, Stream, UserState};
use skytrail_schema::field_access::IS_VERIFIED;
use skytrail_schema::id::UserId;
use skytrail_schema::record::Record;
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;

use super::Accounts;
use super::messages::SetDisabled;
use crate::context::RequestContext;

/// Refuses a token whose user was judged before their present password was set. A token for which
/// that time is not known is accepted.
pub(crate) fn refuse_revoked(state: &UserState, as_of: Option<Timestamp>) -> Result<(), ApiError> {
    match (state.token_valid_since, as_of) {
        (Some(since), Some(as_of)) if as_of < since => Err(bad_token()),
        _ => Ok(()),
    }
}

/// Returns whether something could not be written because the disk is full.
pub(crate) fn is_out_of_space(error: &ApiError) -> bool {
    error.status() == 507
}

/// Returns the error for a refused token.
pub fn bad_token() -> ApiError {
    ApiError::new(
        Code::AccessTokenNotAccepted,
        "token does not exist or it has expired",
    )
}

/// Refuses a user whose record does not say that they are verified, where users must be.
pub(crate) fn refuse_unverified(record: Option<&Record>) -> Result<(), ApiError> {
    let says = record.and_then(|record| record.fields.get(IS_VERIFIED));
    match says {
        Some(Value::Bool(true)) => Ok(()),
        _ => Err(unverified()),
    }
}

/// Returns the error for a user who must be verified and is not.
pub(crate) fn unverified() -> ApiError {
    ApiError::new(Code::VerificationRequired, "User is not yet verified")
}

impl Accounts {
    /// Whether a user may act at present. `as_of` is the time as of which the token's user was
    /// judged, if it is known.
    ///
    /// # Errors
    /// 127 with the reason and the time when it ends, if they are known; 104 for a token from
    /// before the password was set.
    pub fn admit(&self, user: &UserState, as_of: Option<Timestamp>) -> Result<(), ApiError> {
        user.check_enabled(self.env.clock.now())?;
        refuse_revoked(user, as_of)
    }

    /// Refuses to let a caller name a user who was erased.
    ///
    /// # Errors
    /// 110 with the time.
    pub fn refuse_erased(&self, id: &UserId) -> Result<(), ApiError> {
        self.env.refuse_erased(id)
    }

    /// Locks a user out, or lets them in again.
    ///
    /// # Errors
    /// 110 without such a user, 108 for `_god`.
    pub async fn set_disabled(&self, command: SetDisabled) -> Result<(), ApiError> {
        if command.user == UserId::god() {
            let message = "_god is the master key's own user and cannot be disabled";
            return Err(ApiError::invalid_argument(message, &["auth_id"]));
        }
        let SetDisabled { context, user, .. } = &command;
        let body = match command.disabled.clone() {
            Some(disabled) => EventBody::UserDisabled(disabled),
            None => EventBody::UserEnabled(NoDetails {}),
        };
        let set = self.change_user(user, context, |plan, (version, _)| {
            plan.push(Stream::User(user.clone()), version + 1, body.clone());
        });
        if !set.await? {
            return Err(ApiError::new(Code::ResourceNotFound, "User not found"));
        }
        Ok(())
    }

    /// Creates the caller's user record if it is missing, unless the disk is full. Refuses a
    /// caller who is not verified, where users must be.
    ///
    /// The master key is exempt: plugins verify users with it.
    ///
    /// # Errors
    /// 10005 without a user, 128, and whatever a hook of the `user` type refuses with.
    pub async fn require_user_record(&self, context: &RequestContext) -> Result<(), ApiError> {
        let missing = || ApiError::new(Code::UnexpectedUserNotFound, "user not found");
        let id = context.caller.user.as_ref().ok_or_else(missing)?;
        let profile = match self.profile(id, context).await {
            // Reads do not need it, and writes are refused for the same reason.
            Err(error) if is_out_of_space(&error) && !self.must_be_verified(context) => {
                return Ok(());
            }
            loaded => loaded?.ok_or_else(missing)?,
        };
        if self.must_be_verified(context) {
            refuse_unverified(Some(&profile))?;
        }
        Ok(())
    }

    /// Like [`Accounts::require_user_record`], but only if users must be verified and the caller
    /// has a user.
    ///
    /// # Errors
    /// 128; those of [`Accounts::require_user_record`].
    pub async fn check_verified(&self, context: &RequestContext) -> Result<(), ApiError> {
        if self.must_be_verified(context) && context.caller.user.is_some() {
            self.require_user_record(context).await?;
        }
        Ok(())
    }

    fn must_be_verified(&self, context: &RequestContext) -> bool {
        self.settings.is_verification_required && !context.caller.is_master()
    }

    /// Loads a user whom the caller names, or fails if there is none.
    pub(super) async fn load_known(&self, id: &UserId) -> Result<UserState, ApiError> {
        let missing = || {
            let message = "skydb: AuthInfo ID not found";
            ApiError::new(Code::UnexpectedAuthInfoNotFound, message)
        };
        Ok(self.load(id).await?.1.ok_or_else(missing)?.1)
    }
}
