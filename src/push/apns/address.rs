//! What a device's address at Apple can be.
//!
//! Clients choose addresses, and both parts become part of a request's head. They are checked when a
//! device is registered. They are checked again when something is sent, because devices can also
//! come from an import, from an earlier build, or change their type.

/// Longer than any of Apple's tokens.
const MAX_TOKEN: usize = 200;
/// Longer than any bundle id.
const MAX_TOPIC: usize = 255;

/// Returns whether Apple can have issued a token.
pub(super) fn is_apples(token: &str) -> bool {
    token.len() <= MAX_TOKEN && token.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Checks the token of a device that registers. Hyphens are accepted, though Apple's tokens have
/// none, because v1 accepts any token, and apps' tests register devices with names of their own.
///
/// # Errors
/// A phrase that says what is wrong.
pub(crate) fn check_token(token: &str) -> Result<(), String> {
    if token.len() > MAX_TOKEN {
        return Err(format!("a token of more than {MAX_TOKEN} bytes"));
    }
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !token.bytes().all(is_known) {
        return Err("something other than ASCII letters, digits and hyphens".to_owned());
    }
    Ok(())
}

/// Checks a topic, the bundle id of an app with an optional suffix.
///
/// # Errors
/// A phrase that says what is wrong.
pub(crate) fn check_topic(topic: &str) -> Result<(), String> {
    if topic.len() > MAX_TOPIC {
        return Err(format!("a topic of more than {MAX_TOPIC} bytes"));
    }
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !topic.bytes().all(is_known) {
        return Err(
            "something other than ASCII letters, digits and the characters - . _".to_owned(),
        );
    }
    Ok(())
}
