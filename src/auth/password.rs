//! Password hashing: Argon2id for new passwords, off the request threads.
//!
//! Hashing is slow on purpose, so only a few hashes run at once and a limited number wait; further
//! requests are told to retry. v1's hashes are bcrypt: they are verified, and the accounts replace
//! them at the next login.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use skytrail_actors::accounts::messages::Password;
use skytrail_actors::accounts::ports::PasswordHasher;
use skytrail_schema::code::ApiError;
use tokio::sync::Semaphore;

use super::strength;

/// Memory per hash in KiB, passes, lanes. For less memory, RFC 9106 recommends 64 MiB with three
/// passes; for servers that hash at every login, OWASP recommends 19 MiB with two.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// How many requests can wait for a hash.
const MAX_WAITING: usize = 64;
/// The highest cost of an imported hash: bcrypt's exponent; Argon2's memory in KiB and passes.
const MAX_BCRYPT_COST: u32 = 14;
/// How many bytes of a password bcrypt uses.
const BCRYPT_BYTES: usize = 72;
const MAX_MEMORY_KIB: u32 = 256 * 1024;
const MAX_PASSES: u32 = 10;

/// See the module's overview.
pub struct Argon2Hasher {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Verified against when there is no user, so that the time taken does not reveal that.
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
    async fn hash(&self, password: Password) -> Result<String, ApiError> {
        self.run(move || hash_now(password.reveal().as_bytes()))
            .await
    }

    async fn verify(
        &self,
        password: Option<Password>,
        hash: Option<String>,
    ) -> Result<bool, ApiError> {
        let is_possible = password.is_some() && hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy.clone());
        self.run(move || {
            let text = password.as_ref().map_or("", Password::reveal);
            Ok(verify_now(text, &hash) && is_possible)
        })
        .await
    }

    async fn verify_any(&self, password: Password, hashes: Vec<String>) -> Result<bool, ApiError> {
        let is_any = move || {
            let mut hashes = hashes.iter();
            Ok(hashes.any(|hash| verify_now(password.reveal(), hash)))
        };
        self.run(is_any).await
    }

    async fn guess_level(
        &self,
        password: Password,
        user_texts: Vec<String>,
    ) -> Result<u8, ApiError> {
        self.run(move || Ok(strength::level(password.reveal(), &user_texts)))
            .await
    }

    fn is_hash(&self, text: &str) -> bool {
        if let Ok(parts) = text.parse::<bcrypt::HashParts>() {
            return is_bcrypt(text) && parts.get_cost() <= MAX_BCRYPT_COST;
        }
        let params = PasswordHash::new(text).ok().and_then(|hash| {
            let is_ours = hash.algorithm == Algorithm::Argon2id.ident();
            Params::try_from(&hash).ok().filter(|_| is_ours)
        });
        params.is_some_and(|params| {
            params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_PASSES
        })
    }

    fn is_outdated(&self, hash: &str) -> bool {
        let present = format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$");
        !hash.starts_with(&present)
    }

    fn covers(&self, hash: &str, password: &Password) -> bool {
        !is_bcrypt(hash) || password.reveal().len() <= BCRYPT_BYTES
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

/// Generates a hash that takes as long to verify as any other, without hashing: no password matches
/// it.
fn decoy() -> String {
    let [salt, output] = [
        rand::random::<[u8; 16]>().as_slice(),
        &rand::random::<[u8; 32]>(),
    ]
    .map(|bytes| STANDARD_NO_PAD.encode(bytes));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${output}")
}

fn verify_now(password: &str, hash: &str) -> bool {
    if is_bcrypt(hash) {
        // bcrypt has never used anything after the 72nd byte.
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    let Ok(hash) = PasswordHash::new(hash) else {
        return false;
    };
    argon2().verify_password(password.as_bytes(), &hash).is_ok()
}

fn is_bcrypt(hash: &str) -> bool {
    ["$2a$", "$2b$", "$2y$"]
        .iter()
        .any(|prefix| hash.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    async fn is_right(hasher: &Argon2Hasher, text: &str, hash: &str) -> bool {
        let hash = Some(hash.to_owned());
        hasher.verify(Some(password(text)), hash).await.unwrap()
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_accepted() {
        let hasher = Argon2Hasher::new(2);
        let hash = hasher.hash(password("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(!hasher.is_outdated(&hash) && hasher.is_hash(&hash));
        assert!(is_right(&hasher, "correct horse", &hash).await);
        assert!(!is_right(&hasher, "wrong horse", &hash).await);
        assert!(!is_right(&hasher, "correct horse", "no hash").await);
        let nobody = hasher.verify(Some(password("correct horse")), None);
        assert!(!nobody.await.unwrap());
        assert!(!hasher.verify(None, Some(hash)).await.unwrap());
    }

    #[tokio::test]
    async fn hashes_of_bcrypt_are_accepted_and_outdated() {
        let hasher = Argon2Hasher::new(2);
        let long = "x".repeat(80);
        let made = bcrypt::hash(&long, 4).unwrap();
        for prefix in ["$2a$", "$2b$", "$2y$"] {
            let hash = made.replacen("$2b$", prefix, 1);
            assert!(is_right(&hasher, &long, &hash).await, "{hash}");
            let same = format!("{}y", "x".repeat(72));
            assert!(is_right(&hasher, &same, &hash).await, "72 bytes count");
            assert!(!is_right(&hasher, &long[..71], &hash).await);
            assert!(hasher.is_outdated(&hash) && hasher.is_hash(&hash));
        }
    }

    #[tokio::test]
    async fn a_password_is_found_among_many_hashes() {
        let hasher = Argon2Hasher::new(2);
        let hashes = vec![
            hasher.hash(password("one")).await.unwrap(),
            bcrypt::hash("two", 4).unwrap(),
        ];
        let is_any = |text: &str| hasher.verify_any(password(text), hashes.clone());
        assert!(is_any("one").await.unwrap());
        assert!(is_any("two").await.unwrap());
        assert!(!is_any("three").await.unwrap());
    }

    #[test]
    fn what_costs_too_much_or_is_no_hash_is_not_taken_over() {
        let hasher = Argon2Hasher::new(1);
        let costly = bcrypt::hash("x", 4).unwrap().replacen("$04$", "$31$", 1);
        let plain = "$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$\
                     iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";
        for text in ["", "password", "$2b$", "$1$abc", costly.as_str(), plain] {
            assert!(!hasher.is_hash(text), "{text}");
        }
    }

    #[tokio::test]
    async fn who_finds_the_queue_full_is_told_to_come_back() {
        let hasher = Argon2Hasher::new(1);
        let busy = Arc::clone(&hasher.running).acquire_owned().await.unwrap();
        let mut waiting: Vec<_> = (0..MAX_WAITING)
            .map(|_| hasher.verify(Some(password("x")), Some(String::new())))
            .collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one.as_mut()).is_pending());
        }
        let refused = hasher.hash(password("x")).await.unwrap_err();
        assert_eq!(refused.status(), 503);
        assert!(refused.info["retry_after_ms"].as_u64().unwrap() > 0);
        drop((busy, waiting));
        assert!(hasher.hash(password("x")).await.is_ok());
    }

    /// A decoy with another cost would reveal who has an account.
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
