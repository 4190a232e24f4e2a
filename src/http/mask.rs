//! Requests in a form that may be logged: without keys, tokens, passwords and the like.
//!
//! What is masked depends on names, at any depth, and on a few values that are secret wherever they
//! appear. What cannot be parsed is not shown at all.

use actix_web::http::header::HeaderMap;
use serde_json::{Map, Value as Json};

/// Replaces a secret.
pub const MASK: &str = "***";

/// A name that contains one of these, in any spelling, belongs to a secret value.
const SECRET_NAMES: &[&str] = &[
    "apikey",
    "masterkey",
    "token",
    "password",
    "passwd",
    "secret",
    "signature",
    "credential",
    "authorization",
    "authdata",
    "cookie",
    "privatekey",
];

/// As [`SECRET_NAMES`], but only as the whole name.
const SECRET_WORDS: &[&str] = &["code", "key", "pass", "pwd"];

/// Whole names of values that are not secret, but private.
const PERSONAL_WORDS: &[&str] = &["email", "phone"];

/// Returns whether a value with this name must not be shown.
pub fn is_secret(name: &str) -> bool {
    opens_something(name) || PERSONAL_WORDS.contains(&plain(name).as_str())
}

/// Returns whether a value with this name grants access: a password, a token, a key.
fn opens_something(name: &str) -> bool {
    let plain = plain(name);
    SECRET_NAMES.iter().any(|secret| plain.contains(secret))
        || SECRET_WORDS.contains(&plain.as_str())
}

/// Returns a name in a normalized spelling.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// Removes, at every depth, values whose names say that they grant access.
pub fn without_secrets(value: Json) -> Json {
    match value {
        Json::Array(items) => items.into_iter().map(without_secrets).collect(),
        Json::Object(members) => {
            let kept = members
                .into_iter()
                .filter(|(name, _)| !opens_something(name));
            let kept = kept.map(|(name, value)| (name, without_secrets(value)));
            Json::Object(kept.collect())
        }
        plain => plain,
    }
}

/// Masks strings that are one of the secrets, or contain one.
pub struct Masker<'a> {
    secrets: Vec<&'a str>,
}

impl<'a> Masker<'a> {
    /// Builds a masker for values that are secret wherever they appear; empty ones are ignored.
    pub fn new(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty());
        Self {
            secrets: secrets.collect(),
        }
    }

    /// Masks a string.
    pub fn text(&self, text: &str) -> String {
        if self.secrets.iter().any(|secret| text.contains(secret)) {
            MASK.to_owned()
        } else {
            text.to_owned()
        }
    }

    /// Masks a value at every depth.
    pub fn json(&self, value: &Json) -> Json {
        match value {
            Json::String(text) => self.text(text).into(),
            Json::Array(items) => items.iter().map(|item| self.json(item)).collect(),
            Json::Object(members) => Json::Object(self.members(members)),
            plain => plain.clone(),
        }
    }

    /// Masks an object at every depth.
    pub fn members(&self, members: &Map<String, Json>) -> Map<String, Json> {
        let mask = |(name, value): (&String, &Json)| {
            let shown = if is_secret(name) && !value.is_null() {
                MASK.into()
            } else {
                self.json(value)
            };
            (self.text(name), shown)
        };
        members.iter().map(mask).collect()
    }

    /// Masks a query string, undecoded.
    pub fn query(&self, query: &str) -> String {
        let mask = |pair: &str| match pair.split_once('=') {
            // An escaped name could be any name.
            Some((name, value)) if !is_secret(name) && !name.contains('%') => {
                format!("{}={}", self.text(name), self.text(value))
            }
            Some((name, _)) => format!("{}={MASK}", self.text(name)),
            None => self.text(pair),
        };
        query.split('&').map(mask).collect::<Vec<_>>().join("&")
    }

    /// Formats the head's fields, masked.
    pub fn headers(&self, headers: &HeaderMap) -> String {
        let mask = |(name, value): (&actix_web::http::header::HeaderName, _)| {
            let value: &actix_web::http::header::HeaderValue = value;
            let shown = match value.to_str() {
                _ if is_secret(name.as_str()) => MASK.to_owned(),
                Ok(text) => self.text(text),
                Err(_) => MASK.to_owned(),
            };
            format!("{name}: {shown}")
        };
        headers.iter().map(mask).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_masked_at_every_depth_and_in_every_spelling() {
        let masker = Masker::new(["key-of-the-app"]);
        let body = json!({
            "api_key": "a", "access_token": "b", "accessToken": "c", "Password": "d",
            "args": [{"old_password": "e", "deep": {"X-Skygear-API-Key": "f", "kept": "shown"}}],
            "provider_auth_data": {"anything": "g"}, "auth_data": {"username": "h"},
            "note": "the key-of-the-app is here", "key-of-the-app": 1, "absent_token": null,
        });
        let masked = masker.json(&body).to_string();
        for secret in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            assert!(
                !masked.contains(&format!("{secret:?}")),
                "{secret}: {masked}"
            );
        }
        assert!(masked.contains("shown"), "{masked}");
        assert!(!masked.contains("key-of-the-app"), "{masked}");
        assert!(masked.contains("\"absent_token\":null"), "{masked}");
    }

    #[test]
    fn what_opens_nothing_is_kept() {
        let given =
            json!({"email": "ada@here", "ids": [{"n": 1, "refresh_token": "r"}], "code": 1});
        let kept = json!({"email": "ada@here", "ids": [{"n": 1}]});
        assert_eq!(without_secrets(given), kept);
    }

    #[test]
    fn query_strings_are_masked() {
        let masker = Masker::new(["hush"]);
        let masked = masker.query("api_key=1&x=2&signature=3&code=4&y=hush&flag&api%5Fkey=5");
        assert_eq!(
            masked,
            "api_key=***&x=2&signature=***&code=***&y=***&flag&api%5Fkey=***"
        );
    }

    proptest! {
        #[test]
        fn a_value_under_a_secret_name_is_never_shown(
            depth in 0usize..5,
            name in prop::sample::select(vec!["api_key", "New_Password", "TOKEN", "x-secret"]),
        ) {
            let mut body = json!({name: {"v": "sesame"}});
            for level in 0..depth {
                body = if level % 2 == 0 { json!([body]) } else { json!({"in": body}) };
            }
            prop_assert!(!Masker::new([]).json(&body).to_string().contains("sesame"));
            prop_assert!(!without_secrets(body).to_string().contains("sesame"));
        }
    }
}
