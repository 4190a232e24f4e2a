//! Users who are locked out.

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::UserState;
use skytrail_schema::time::Timestamp;

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
