//! What accounts need from outside: slow hashing and tokens.

use async_trait::async_trait;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;

use super::messages::Password;

/// Hashes passwords, off the request threads.
///
/// The number of callers that can wait is bounded; others are refused at once (503, with the time
/// to wait).
#[async_trait]
pub trait PasswordHasher: Send + Sync + 'static {
    /// Hashes a new password.
    ///
    /// # Errors
    /// Overload: too many callers are waiting.
    async fn hash(&self, password: Password) -> Result<String, ApiError>;

    /// Whether a password matches a hash. Takes as long without a hash or a password, so that the
    /// time does not tell whether the user exists.
    ///
    /// # Errors
    /// Overload: too many callers are waiting.
    async fn verify(
        &self,
        password: Option<Password>,
        hash: Option<String>,
    ) -> Result<bool, ApiError>;

    /// Whether a password matches any of the hashes.
    ///
    /// # Errors
    /// Overload: too many callers are waiting.
    async fn verify_any(&self, password: Password, hashes: Vec<String>) -> Result<bool, ApiError>;

    /// Estimates how hard a password is to guess, from 1 to 5, for somebody who knows some strings
    /// about its owner.
    ///
    /// # Errors
    /// Overload: too many callers are waiting.
    async fn guess_level(
        &self,
        password: Password,
        user_texts: Vec<String>,
    ) -> Result<u8, ApiError>;

    /// Whether a string is a hash that can be verified against, within reasonable time and memory.
    fn is_hash(&self, text: &str) -> bool;

    /// Whether a hash was computed in another way than [`PasswordHasher::hash`] now uses.
    fn is_outdated(&self, hash: &str) -> bool;

    /// Whether a hash depends on the whole of a password that it verifies, and not only on its
    /// beginning.
    fn covers(&self, hash: &str, password: &Password) -> bool;
}

/// Issues, reads and forgets access tokens.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// Issues a token. It carries the user's `valid_since` as it was when the user was judged, so
    /// that the token ends with the next password, however soon that is set.
    ///
    /// # Errors
    /// The token could not be signed or stored.
    async fn issue(
        &self,
        user: &UserId,
        valid_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<String, ApiError>;

    /// Reads a token; `None` if it is not a token, not ours, expired, or forgotten.
    ///
    /// # Errors
    /// Tokens are stored, and the store does not answer.
    async fn read(&self, token: &str, now: Timestamp) -> Result<Option<TokenClaims>, ApiError>;

    /// Forgets a token, if tokens are stored. An unknown token is not an error.
    ///
    /// # Errors
    /// Those of [`Tokens::read`].
    async fn forget(&self, token: &str) -> Result<(), ApiError>;
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenClaims {
    /// The user.
    pub user: UserId,
    /// The time as of which the user was judged, if it is known: a password that was set later ends
    /// the token.
    pub as_of: Option<Timestamp>,
    /// When the token expires, if it does.
    pub expires_at: Option<Timestamp>,
}
