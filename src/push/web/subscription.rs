//! A browser's description of where it can be reached.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::PublicKey;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use reqwest::Url;
use serde::{Deserialize, Serialize};

/// The length of the shared secret.
const AUTH_LEN: usize = 16;
/// Longer than any service's addresses and keys.
const MAX_LEN: usize = 4096;

/// A browser's `PushSubscription`.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Where its service accepts messages for it.
    pub endpoint: Url,
    /// The browser's public key.
    pub key: PublicKey,
    /// The shared secret.
    pub auth: [u8; AUTH_LEN],
}

#[derive(Serialize, Deserialize)]
struct Wire {
    endpoint: String,
    keys: Keys,
}

#[derive(Serialize, Deserialize)]
struct Keys {
    auth: String,
    p256dh: String,
}

impl Subscription {
    /// Parses the output of `JSON.stringify(subscription)`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LEN {
            return Err(format!("a subscription of more than {MAX_LEN} bytes"));
        }
        let wire: Wire = serde_json::from_str(text)
            .map_err(|error| format!("not the JSON of a subscription: {error}"))?;
        let endpoint = Url::parse(&wire.endpoint).ok();
        let endpoint = endpoint.filter(|url| url.scheme() == "https" && url.username().is_empty());
        let bytes = |name: &str, text: &str| {
            // Some browsers add padding.
            let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
            decoded.map_err(|_| format!("keys.{name} is not base64url"))
        };
        let key = PublicKey::from_sec1_bytes(&bytes("p256dh", &wire.keys.p256dh)?);
        let auth: Result<[u8; AUTH_LEN], _> = bytes("auth", &wire.keys.auth)?.try_into();
        Ok(Self {
            endpoint: endpoint.ok_or("endpoint is not an address that begins with https://")?,
            key: key.map_err(|_| "keys.p256dh is not a point of the curve P-256")?,
            auth: auth.map_err(|_| format!("keys.auth does not have {AUTH_LEN} bytes"))?,
        })
    }

    /// Writes it in a normalized form, so that a browser that registers again is recognized.
    pub fn to_text(&self) -> String {
        let wire = Wire {
            endpoint: self.endpoint.to_string(),
            keys: Keys {
                auth: URL_SAFE_NO_PAD.encode(self.auth),
                p256dh: URL_SAFE_NO_PAD.encode(self.key.to_encoded_point(false)),
            },
        };
        serde_json::to_string(&wire).unwrap_or_default()
    }
}
