//! Identifies the sender (RFC 8292) with a key of the server's own, which browsers receive when
//! they subscribe.

use std::num::NonZeroUsize;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lru::LruCache;
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use parking_lot::Mutex;
use reqwest::Url;
use serde::Serialize;
use skytrail_schema::time::Timestamp;

use crate::push::signer::{Signer, seconds};

/// How long a token is valid; services accept a day at most.
const TOKEN_LIFE: i64 = 12 * 3600;
/// A token is not used in the last part of its life.
const TOKEN_MARGIN: i64 = 3600;
/// For how many services tokens are cached.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// The server's key.
#[derive(Clone)]
pub struct VapidKey(SecretKey);

impl VapidKey {
    /// Generates a new key.
    pub fn random() -> Self {
        Self(random_key())
    }

    /// Parses the private key in the form that common tools write: 32 bytes in base64url.
    ///
    /// # Errors
    /// A sentence that says what is accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
        let bytes = bytes.ok().filter(|bytes| bytes.len() == 32);
        let key = bytes.and_then(|bytes| SecretKey::from_slice(&bytes).ok());
        let expected = "not a private key of the curve P-256, 32 bytes in base64url";
        key.map(Self).ok_or_else(|| expected.to_owned())
    }

    /// Writes the private key.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.to_bytes())
    }

    /// Writes the public key, which browsers call `applicationServerKey`.
    pub fn to_public_text(&self) -> String {
        let point = self.0.public_key().to_encoded_point(false);
        URL_SAFE_NO_PAD.encode(point)
    }
}

/// Generates a random key.
pub(super) fn random_key() -> SecretKey {
    loop {
        let bytes: [u8; 32] = rand::random();
        // About one in four billion values is not a valid key.
        if let Ok(key) = SecretKey::from_slice(&bytes) {
            return key;
        }
    }
}

/// Builds the credentials for the services.
pub(super) struct Vapid {
    signer: Signer,
    public: String,
    subject: String,
    tokens: Mutex<LruCache<String, Token>>,
}

struct Token {
    text: String,
    until: i64,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: i64,
    sub: &'a str,
}

impl Vapid {
    pub(super) fn new(key: &VapidKey, subject: String) -> Result<Self, String> {
        Ok(Self {
            signer: Signer::with_key(&key.0, None)?,
            public: key.to_public_text(),
            subject,
            tokens: Mutex::new(LruCache::new(KEPT)),
        })
    }

    /// Returns the credentials for the service at an address.
    pub(super) fn authorization(&self, endpoint: &Url, now: Timestamp) -> Result<String, String> {
        let now = seconds(now);
        let audience = endpoint.origin().ascii_serialization();
        let mut tokens = self.tokens.lock();
        let cached = tokens.get(&audience);
        let cached = cached.filter(|token| (0..=TOKEN_LIFE).contains(&(token.until - now)));
        let text = match cached {
            Some(token) => token.text.clone(),
            None => {
                let exp = now + TOKEN_LIFE;
                let claims = Claims {
                    aud: &audience,
                    exp,
                    sub: &self.subject,
                };
                let text = self.signer.sign(&claims);
                let text = text.map_err(|error| error.to_string())?;
                let until = exp - TOKEN_MARGIN;
                let token = Token {
                    text: text.clone(),
                    until,
                };
                tokens.put(audience, token);
                text
            }
        };
        Ok(format!("vapid t={text}, k={}", self.public))
    }
}
