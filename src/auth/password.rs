//! Password hashing: Argon2id for new passwords, off the request threads.
//!
//! Hashing is meant to be slow, so only a few run at once and only some wait;
//! who comes then is told to come back.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use skytrail_actors::accounts::ports::PasswordHasher;
use skytrail_schema::code::ApiError;
use tokio::sync::Semaphore;

/// Memory per hash in KiB, passes, lanes: the first choice of RFC 9106 for less memory is 64 MiB
/// with three passes; OWASP's for servers that hash at every login is 19 MiB with two.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// How many requests may wait for a hash.
const MAX_WAITING: usize = 64;

/// See the module's overview.
pub struct Argon2Hasher {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Verified against when there is no user, so that the time does not tell.
    decoy: String,
}

impl Argon2Hasher {
    /// Builds a hasher that runs at most `parallel` hashes at once.
    pub fn new(parallel: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(parallel.max(1))),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            decoy: decoy(),
        }
    }

    /// Runs slow work on the blocking pool, a few at a time.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let overloaded = |_| ApiError::overloaded("password hashing");
        let waiting = Arc::clone(&self.waiting)
            .try_acquire_owned()
            .map_err(overloaded)?;
        let closed = |_| ApiError::unexpected("the server is stopping");
        let running = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(closed)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((running, waiting));
            done
        });
        done.await
            .map_err(|error| ApiError::unexpected(error.to_string()))?
    }
}

#[async_trait]
impl PasswordHasher for Argon2Hasher {
    async fn hash(&self, password: String) -> Result<String, ApiError> {
        self.run(move || hash_now(password.as_bytes())).await
    }

    async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, ApiError> {
        let has_user = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy.clone());
        self.run(move || Ok(verify_now(password.as_bytes(), &hash) && has_user))
            .await
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash_now(password: &[u8]) -> Result<String, ApiError> {
    let hash = argon2().hash_password(password);
    hash.map(|hash| hash.to_string())
        .map_err(|error| ApiError::unexpected(error.to_string()))
}

/// Makes up a hash that takes as long to verify as any, without hashing: no password has it.
fn decoy() -> String {
    let [salt, output] = [
        rand::random::<[u8; 16]>().as_slice(),
        &rand::random::<[u8; 32]>(),
    ]
    .map(|bytes| STANDARD_NO_PAD.encode(bytes));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${output}")
}

fn verify_now(password: &[u8], hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else {
        return false;
    };
    argon2().verify_password(password, &hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_accepted() {
        let hasher = Argon2Hasher::new(2);
        let hash = hasher.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(
            hasher
                .verify("correct horse".to_owned(), Some(hash.clone()))
                .await
                .unwrap()
        );
        assert!(
            !hasher
                .verify("wrong horse".to_owned(), Some(hash))
                .await
                .unwrap()
        );
        assert!(
            !hasher
                .verify("correct horse".to_owned(), None)
                .await
                .unwrap()
        );
        assert!(
            !hasher
                .verify(String::new(), Some("no hash".to_owned()))
                .await
                .unwrap()
        );
    }

    /// A decoy that differed in cost would tell who has an account.
    #[test]
    fn the_decoy_costs_what_a_password_costs() {
        let (decoy, real) = (decoy(), hash_now(b"correct horse").unwrap());
        let (decoy, real) = (
            PasswordHash::new(&decoy).unwrap(),
            PasswordHash::new(&real).unwrap(),
        );
        assert_eq!(decoy.algorithm, real.algorithm);
        assert_eq!(decoy.version, real.version);
        assert_eq!(decoy.params, real.params);
        let length = |hash: &PasswordHash| hash.hash.as_ref().map(|hash| hash.len());
        assert_eq!(length(&decoy), length(&real));
    }
}
