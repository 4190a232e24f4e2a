//! What accounts need from outside: slow hashing and tokens.

use async_trait::async_trait;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;

use super::messages::Password;

/// Hashes passwords, off the request threads.
///
/// Only so many callers may wait; the others are refused at once (503, with the time to wait).
#[async_trait]
pub trait PasswordHasher: Send + Sync + 'static {
    /// Hashes a new password.
    ///
    /// # Errors
    /// Overload: too many are waiting.
    async fn hash(&self, password: Password) -> Result<String, ApiError>;

    /// Whether a password is the one of a hash. Takes as long without a hash or a password, so
    /// that the time does not tell whether there is a user.
    ///
    /// # Errors
    /// Overload: too many are waiting.
    async fn verify(
        &self,
        password: Option<Password>,
        hash: Option<String>,
    ) -> Result<bool, ApiError>;

    /// Whether a password is the one of any of the hashes.
    ///
    /// # Errors
    /// Overload: too many are waiting.
    async fn verify_any(&self, password: Password, hashes: Vec<String>) -> Result<bool, ApiError>;

    /// Estimates how hard a password is to guess, from 1 to 5, for somebody who knows some texts
    /// about its owner.
    ///
    /// # Errors
    /// Overload: too many are waiting.
    async fn guess_level(&self, password: Password, known: Vec<String>) -> Result<u8, ApiError>;

    /// Whether a text is a hash that can be verified against, within reasonable time and memory.
    fn is_hash(&self, text: &str) -> bool;

    /// Whether a hash was made in another way than [`PasswordHasher::hash`] makes them now.
    fn is_outdated(&self, hash: &str) -> bool;

    /// Whether a hash speaks for all of a password that it verifies, and not only for its beginning.
    fn covers(&self, hash: &str, password: &Password) -> bool;
}

/// Issues, reads and forgets access tokens.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// Issues a token. It says since when the user's tokens were good as he was judged, so that it
    /// ends with the next password, however close that is.
    ///
    /// # Errors
    /// The token could not be signed or stored.
    async fn issue(
        &self,
        user: &UserId,
        valid_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<String, ApiError>;

    /// Reads a token; `None` when it is not one, not ours, expired, or forgotten.
    ///
    /// # Errors
    /// Tokens are stored, and the store does not answer.
    async fn read(&self, token: &str, now: Timestamp) -> Result<Option<TokenClaims>, ApiError>;

    /// Forgets a token, where tokens are stored; that there is none is no error.
    ///
    /// # Errors
    /// As [`Tokens::read`].
    async fn forget(&self, token: &str) -> Result<(), ApiError>;
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenClaims {
    /// The user.
    pub user: UserId,
    /// As of when its user was judged, if that is known: a password that was set later ends it.
    pub as_of: Option<Timestamp>,
    /// When it expires, if it does.
    pub expires_at: Option<Timestamp>,
}
