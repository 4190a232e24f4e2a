//! Signed tokens that identify the sender; each is used as long as it is valid.

use jsonwebtoken::errors::Error;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use serde::Serialize;
use skytrail_schema::time::Timestamp;

/// Signs tokens.
pub(crate) struct Signer {
    key: EncodingKey,
    header: Header,
}

impl Signer {
    /// Builds a signer with an elliptic-curve key (PKCS #8, PEM). Each token names the key by
    /// `key_id`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the key.
    pub(crate) fn elliptic(pem: &str, key_id: Option<&str>) -> Result<Self, String> {
        let key = p256::SecretKey::from_pkcs8_pem(pem.trim());
        let key = key.map_err(|_| "not a private key of the curve P-256 in PKCS #8".to_owned())?;
        Self::with_key(&key, key_id)
    }

    /// As [`Signer::elliptic`], with a key that is already parsed.
    pub(super) fn with_key(key: &p256::SecretKey, key_id: Option<&str>) -> Result<Self, String> {
        let der = key.to_pkcs8_der().map_err(|error| error.to_string())?;
        let key = EncodingKey::from_ec_der(der.as_bytes());
        Ok(Self::new(key, Algorithm::ES256, key_id))
    }

    /// Builds a signer with an RSA key (PEM).
    ///
    /// # Errors
    /// As [`Signer::elliptic`].
    pub(crate) fn rsa(pem: &str, key_id: Option<&str>) -> Result<Self, String> {
        let key = EncodingKey::from_rsa_pem(pem.as_bytes());
        let key = key.map_err(|_| "not a private RSA key".to_owned())?;
        let signer = Self::new(key, Algorithm::RS256, key_id);
        // The key is only checked when something is signed.
        let tried = signer.sign(&());
        tried.map_err(|_| "not a private RSA key".to_owned())?;
        Ok(signer)
    }

    fn new(key: EncodingKey, algorithm: Algorithm, key_id: Option<&str>) -> Self {
        let mut header = Header::new(algorithm);
        header.kid = key_id.map(str::to_owned);
        Self { key, header }
    }

    /// Signs claims.
    ///
    /// # Errors
    /// The library's error.
    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String, Error> {
        encode(&self.header, claims, &self.key)
    }
}

/// Returns whole seconds since 1970, the unit of tokens.
pub(super) fn seconds(time: Timestamp) -> i64 {
    time.micros().div_euclid(1_000_000)
}
