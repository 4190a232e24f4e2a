//! The addresses of files, and the signatures that make them valid for a limited time.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hmac::{Hmac, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;
use skytrail_actors::asset::AssetUrls;
use skytrail_actors::clock::Clock;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::time::Timestamp;

use super::store::FileError;
use crate::config::Secret;

/// How long an address is valid.
pub(super) const VALIDITY: Duration = Duration::from_secs(15 * 60);

/// The latest expiry of an address, in seconds since 1970.
///
/// As in v1, the signature covers the name directly followed by the digits of the expiry: if more
/// digits were allowed, the signature of another name that ends with digits would be accepted.
const MAX_EXPIRY: i64 = 9_999_999_999;

/// The characters that must be escaped in a part of a path.
const PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');
const PATH: &AsciiSet = &PART.remove(b'/');

/// Escapes a name as one part of a path, including slashes.
pub fn escape_name(name: &str) -> String {
    utf8_percent_encode(name, PART).to_string()
}

/// Escapes a name as a path: slashes stay.
pub fn escape_path(name: &str) -> String {
    utf8_percent_encode(name, PATH).to_string()
}

/// Signs names of files until a given time. Plugins do the same with the same secret.
#[derive(Clone)]
pub struct UrlSigner(Hmac<Sha256>);

impl UrlSigner {
    /// Builds a signer with a secret.
    ///
    /// # Errors
    /// The secret is empty, so anyone could sign.
    pub fn new(secret: &Secret) -> Result<Self, FileError> {
        let secret = secret.reveal().as_bytes();
        let keyed = Hmac::new_from_slice(secret).ok();
        let keyed = keyed.filter(|_| !secret.is_empty()).map(Self);
        keyed.ok_or_else(|| FileError::Failed("the secret is empty".to_owned()))
    }

    /// Returns the signature of a name until `expiry`, in seconds since 1970.
    pub fn sign(&self, name: &str, expiry: i64) -> String {
        URL_SAFE.encode(self.mac(name, expiry).finalize().into_bytes())
    }

    /// Returns whether a signature is correct, in constant time for wrong ones.
    ///
    /// `None` if it is not a signature. Both alphabets of base64 are accepted, because v1's
    /// JavaScript plugins use the other one, whose `+` arrives as a space if it is not escaped.
    fn verify(&self, name: &str, expiry: i64, signature: &str) -> Option<bool> {
        let standard = signature.replace(['-', ' '], "+").replace('_', "/");
        let bytes = STANDARD.decode(standard).ok()?;
        Some(self.mac(name, expiry).verify_slice(&bytes).is_ok())
    }

    fn mac(&self, name: &str, expiry: i64) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(name.as_bytes());
        mac.update(expiry.to_string().as_bytes());
        mac
    }
}

/// Who may fetch files from this server.
pub enum DownloadGate {
    /// Everyone.
    Open,
    /// Anyone with a signature.
    Signed(UrlSigner),
    /// Nobody: the addresses lead elsewhere.
    Closed,
}

impl DownloadGate {
    /// Admits a download; returns how long the address stays valid, or `None` if it never expires.
    ///
    /// # Errors
    /// 108 without an expiry; 102 if it has passed or is too late, if there is no signature, or if
    /// the gate is closed; 106 for a wrong signature.
    pub fn pass(
        &self,
        name: &str,
        expiry: Option<&str>,
        signature: &str,
        now: Timestamp,
    ) -> Result<Option<Duration>, ApiError> {
        if matches!(self, Self::Open) {
            return Ok(None);
        }
        let denied = || ApiError::new(Code::PermissionDenied, "Access denied");
        let expiry: Option<i64> = expiry.and_then(|text| text.parse().ok());
        let expiry = expiry.ok_or_else(|| {
            ApiError::new(Code::InvalidArgument, "expect expiredAt to be an integer")
        })?;
        let remaining = expiry
            .saturating_mul(1_000_000)
            .saturating_sub(now.micros());
        let remaining = u64::try_from(remaining).map_err(|_| denied())?;
        if expiry > MAX_EXPIRY {
            return Err(denied());
        }
        let Self::Signed(signer) = self else {
            return Err(denied());
        };
        if signer.verify(name, expiry, signature).ok_or_else(denied)? {
            return Ok(Some(Duration::from_micros(remaining)));
        }
        Err(ApiError::new(Code::InvalidSignature, "Invalid signature"))
    }
}

/// The addresses of the folder store, on this server.
pub struct FolderUrls {
    prefix: String,
    signer: Option<UrlSigner>,
    clock: Arc<dyn Clock>,
}

impl FolderUrls {
    /// Builds addresses with the prefix before the name; without a signer they are valid for ever.
    pub fn new(prefix: String, signer: Option<UrlSigner>, clock: Arc<dyn Clock>) -> Self {
        Self {
            prefix,
            signer,
            clock,
        }
    }
}

impl AssetUrls for FolderUrls {
    fn url_of(&self, name: &str) -> Option<String> {
        let url = format!("{}/{}", self.prefix, escape_name(name));
        let Some(signer) = &self.signer else {
            return Some(url);
        };
        let now = self.clock.now().micros() / 1_000_000;
        let expiry = now.saturating_add(i64::try_from(VALIDITY.as_secs()).unwrap_or(i64::MAX));
        let signature = signer.sign(name, expiry);
        Some(format!("{url}?expiredAt={expiry}&signature={signature}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: i64 = 1_481_096_834;
    const SIGNATURE: &str = "R5kMq2neUkCGBjQD6zSv99PajRvI0EqMesuRHQS4hNA=";

    fn signer() -> UrlSigner {
        UrlSigner::new(&Secret::new("asset_secret")).unwrap()
    }

    fn pass(name: &str, expiry: Option<&str>, signature: &str, now: i64) -> i64 {
        let gate = DownloadGate::Signed(signer());
        let now = Timestamp::from_micros(now * 1_000_000);
        let passed = gate.pass(name, expiry, signature, now);
        passed.map_or_else(|error| error.code.number(), |_| 0)
    }

    #[test]
    fn signatures_are_those_of_v1() {
        assert_eq!(signer().sign("index.html", EXPIRY), SIGNATURE);
        let expiry = EXPIRY.to_string();
        assert_eq!(pass("index.html", Some(&expiry), SIGNATURE, EXPIRY), 0);
    }

    #[test]
    fn the_signature_of_a_name_that_ends_with_digits_is_for_no_other() {
        let signature = signer().sign("a1", EXPIRY);
        let shifted = format!("1{EXPIRY}");
        assert_eq!(pass("a", Some(&shifted), &signature, EXPIRY), 102);
        let last = MAX_EXPIRY.to_string();
        let signature = signer().sign("a", MAX_EXPIRY);
        assert_eq!(pass("a", Some(&last), &signature, EXPIRY), 0);
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let expiry = EXPIRY.to_string();
        let pass = |name, expiry, signature, now| pass(name, expiry, signature, now);
        assert_eq!(pass("index.html", None, SIGNATURE, 0), 108);
        assert_eq!(pass("index.html", Some("soon"), SIGNATURE, 0), 108);
        let late = EXPIRY + 1;
        assert_eq!(pass("index.html", Some(&expiry), SIGNATURE, late), 102);
        assert_eq!(pass("index.html", Some(&expiry), "abc", 0), 102);
        assert_eq!(pass("index.html", Some(&expiry), "YWJj", 0), 106);
        assert_eq!(pass("index.html", Some(&expiry), "", 0), 106);
        assert_eq!(pass("other.html", Some(&expiry), SIGNATURE, 0), 106);
        let other = (EXPIRY + 1).to_string();
        assert_eq!(pass("index.html", Some(&other), SIGNATURE, 0), 106);
    }

    #[test]
    fn both_alphabets_are_taken_also_when_plus_came_as_a_space() {
        let found = (0..1000).map(|expiry| (expiry, signer().sign("a", expiry)));
        let mut found = found.filter(|(_, text)| text.contains('-') && text.contains('_'));
        let (expiry, signature) = found.next().unwrap();
        let standard = signature.replace('-', "+").replace('_', "/");
        let unescaped = standard.replace('+', " ");
        for signature in [signature, standard, unescaped] {
            assert_eq!(signer().verify("a", expiry, &signature), Some(true));
        }
    }

    #[test]
    fn nobody_passes_a_closed_gate() {
        let expiry = EXPIRY.to_string();
        let now = Timestamp::from_micros(0);
        let refused = DownloadGate::Closed.pass("index.html", Some(&expiry), SIGNATURE, now);
        assert_eq!(refused.unwrap_err().code, Code::PermissionDenied);
    }

    #[test]
    fn names_are_escaped_as_one_part_or_as_a_path() {
        assert_eq!(escape_name("a b/ü+?#%.txt"), "a%20b%2F%C3%BC+%3F%23%25.txt");
        assert_eq!(escape_path("a b/ü.txt"), "a%20b/%C3%BC.txt");
    }
}
