//! What accounts need from outside: slow hashing and tokens.

use async_trait::async_trait;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;

use super::service::TokenClaims;

/// Hashes passwords, off the request threads.
#[async_trait]
pub trait PasswordHasher: Send + Sync + 'static {
    /// Hashes a new password.
    ///
    /// # Errors
    /// Overload: too many are waiting.
    async fn hash(&self, password: String) -> Result<String, ApiError>;

    /// Whether a password is the one of a hash. Takes as long without a hash, so that the time
    /// does not tell whether there is a user.
    ///
    /// # Errors
    /// Overload: too many are waiting.
    async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, ApiError>;
}

/// Issues, reads and forgets access tokens.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// Issues a token.
    ///
    /// # Errors
    /// The token could not be signed or stored.
    async fn issue(&self, user: &UserId, now: Timestamp) -> Result<String, ApiError>;

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
