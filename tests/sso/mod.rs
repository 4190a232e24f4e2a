//! Signing in from elsewhere: OAuth through a plugin, and custom tokens.

mod custom_token;
mod oauth;
mod races;

use std::path::Path;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value as Json, json};

use crate::support::server::TestServer;

/// The secret that signs custom tokens.
pub const SECRET: &str = "custom-token-secret-of-the-tests";
/// Long ago, and far in the future.
const ISSUED: i64 = 1_500_000_000;
const EXPIRES: i64 = 4_102_444_800;

fn server() -> TestServer {
    TestServer::with(&[("CUSTOM_TOKEN_SECRET", SECRET)])
}

fn sign(algorithm: Algorithm, claims: &Json) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

/// Returns a custom token for a subject, with fields for the user record.
pub fn token_of(subject: &str, profile: Json) -> String {
    let claims = json!({"sub": subject, "iat": ISSUED, "exp": EXPIRES, "skyprofile": profile});
    sign(Algorithm::HS256, &claims)
}

/// Returns everything below a folder, decoded as text as far as possible.
fn everything_in(folder: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push_str(&everything_in(&path));
        } else {
            // A file that has been deleted meanwhile contains nothing.
            let bytes = std::fs::read(&path).unwrap_or_default();
            all.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    all
}
