//! The password policy: which passwords are refused, and how long a password is valid. Pure.

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{PasswordSet, PastPassword, UserState};
use skytrail_schema::record::Fields;
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;

use super::messages::Password;

const MICROS_PER_DAY: i64 = 24 * 60 * 60 * 1_000_000;
/// How many passwords are remembered at most: a new one is compared with each of them, which is
/// slow.
pub const MAX_REMEMBERED: usize = 200;

/// The requirements for passwords. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PasswordPolicy {
    /// The minimum number of bytes.
    pub min_length: usize,
    /// A–Z must occur.
    pub is_uppercase_required: bool,
    /// a–z must occur.
    pub is_lowercase_required: bool,
    /// 0–9 must occur.
    pub is_digit_required: bool,
    /// A character other than ASCII letters and digits must occur.
    pub is_symbol_required: bool,
    /// How hard to guess a password must be, from 1 to 5; 0 turns the check off.
    pub min_guessable_level: u8,
    /// Strings that must not occur, in any case.
    pub excluded_keywords: Vec<String>,
    /// Fields of the user record whose strings must not occur, in any case.
    pub excluded_fields: Vec<String>,
    /// How many passwords must not be used again, including the present one.
    pub history_size: usize,
    /// For how many days passwords must not be used again.
    pub history_days: u32,
    /// After how many days a password must be changed; 0 for never.
    pub expiry_days: u32,
}

impl PasswordPolicy {
    /// Checks a password against every rule about its characters. `user_data` is what is known
    /// about the user.
    ///
    /// # Errors
    /// 126 with the first rule that it breaks.
    pub fn check_text(&self, password: &Password, user_data: &Fields) -> Result<(), ApiError> {
        let text = password.reveal();
        if text.len() < self.min_length {
            let error = violation("PasswordTooShort", "password too short");
            let error = error.with_info("min_length", self.min_length.into());
            return Err(error.with_info("pw_length", text.len().into()));
        }
        if let Some((reason, message)) = self.missing_class(text) {
            return Err(violation(reason, message));
        }
        self.check_excluded(text, user_data)
    }

    /// Returns the first required kind of character that does not occur.
    fn missing_class(&self, text: &str) -> Option<(&'static str, &'static str)> {
        let lacks = |is_kind: fn(&char) -> bool| !text.chars().any(|c| is_kind(&c));
        if self.is_uppercase_required && lacks(char::is_ascii_uppercase) {
            return Some(("PasswordUppercaseRequired", "password uppercase required"));
        }
        if self.is_lowercase_required && lacks(char::is_ascii_lowercase) {
            return Some(("PasswordLowercaseRequired", "password lowercase required"));
        }
        if self.is_digit_required && lacks(char::is_ascii_digit) {
            return Some(("PasswordDigitRequired", "password digit required"));
        }
        if self.is_symbol_required && lacks(|c| !c.is_ascii_alphanumeric()) {
            return Some(("PasswordSymbolRequired", "password symbol required"));
        }
        None
    }

    fn check_excluded(&self, text: &str, user_data: &Fields) -> Result<(), ApiError> {
        let folded = without_case(text);
        let of_fields = self.excluded_fields.iter().filter_map(|field| {
            let value = user_data.get(field)?;
            text_of(value)
        });
        let keywords = self.excluded_keywords.iter().map(String::as_str);
        let mut excluded = keywords.chain(of_fields).filter(|text| !text.is_empty());
        if excluded.any(|excluded| folded.contains(&without_case(excluded))) {
            let message = "password containing excluded keywords";
            return Err(violation("PasswordContainingExcludedKeywords", message));
        }
        Ok(())
    }

    /// Checks an estimate of how hard a password is to guess against the required minimum.
    ///
    /// # Errors
    /// 126.
    pub fn check_level(&self, level: u8) -> Result<(), ApiError> {
        if level >= self.min_guessable_level {
            return Ok(());
        }
        let message = "password below guessable level";
        let error = violation("PasswordBelowGuessableLevel", message);
        let error = error.with_info("min_level", self.min_guessable_level.into());
        Err(error.with_info("pw_level", level.into()))
    }

    /// Returns the hashes that a user's new password must not match: those in the history's window,
    /// and the present one.
    pub fn forbidden_hashes(&self, user: &UserState, now: Timestamp) -> Vec<String> {
        if !self.has_history() {
            return Vec::new();
        }
        let num_remembered = self.window(&user.password_history, now);
        let history = user.password_history.iter().take(num_remembered);
        let mut hashes: Vec<String> = history.map(|past| past.hash.clone()).collect();
        let present = user.password_hash.iter();
        let present = present.filter(|hash| !hashes.contains(hash));
        hashes.extend(present.cloned().collect::<Vec<_>>());
        hashes
    }

    /// Returns the error for a password that was used before.
    pub fn reused(&self) -> ApiError {
        violation("PasswordReused", "password reused")
            .with_info("history_size", self.history_size.into())
            .with_info("history_days", self.history_days.into())
    }

    /// Decides a new password. The event says how much of the history is kept from now on.
    pub fn set(&self, user: &UserState, hash: String, now: Timestamp) -> PasswordSet {
        let history = self.remember(hash.clone(), &user.password_history, now);
        PasswordSet {
            hash,
            at: now,
            num_kept: history.len(),
        }
    }

    /// Returns the history with a new password in front, trimmed to its window.
    pub fn remember(
        &self,
        hash: String,
        history: &[PastPassword],
        now: Timestamp,
    ) -> Vec<PastPassword> {
        let mut remembered = vec![PastPassword { hash, set_at: now }];
        remembered.extend_from_slice(history);
        self.keep(remembered, now)
    }

    /// Trims a history to its window.
    pub fn keep(&self, mut history: Vec<PastPassword>, now: Timestamp) -> Vec<PastPassword> {
        history.truncate(self.window(&history, now));
        history
    }

    /// Returns when a user's password must be changed, if ever.
    pub fn expiry(&self, user: &UserState) -> Option<Timestamp> {
        let set_at = user.password_hash.as_ref().and(user.token_valid_since)?;
        let lifetime = i64::from(self.expiry_days) * MICROS_PER_DAY;
        (lifetime > 0).then(|| Timestamp::from_micros(set_at.micros() + lifetime))
    }

    /// Refuses a user whose password must be changed.
    ///
    /// # Errors
    /// 126 (401).
    pub fn refuse_expired(&self, user: &UserState, now: Timestamp) -> Result<(), ApiError> {
        match self.expiry(user) {
            Some(expiry) if now > expiry => Err(password_expired()),
            _ => Ok(()),
        }
    }

    fn has_history(&self) -> bool {
        self.history_size > 0 || self.history_days > 0
    }

    /// Returns how many of the newest entries count: the last `history_size`, or those since
    /// midnight (UTC) `history_days` days ago, whichever are more.
    fn window(&self, history: &[PastPassword], now: Timestamp) -> usize {
        let by_size = self.history_size.min(history.len()).min(MAX_REMEMBERED);
        if self.history_days == 0 {
            return by_size;
        }
        let today = now.micros().div_euclid(MICROS_PER_DAY);
        let since = (today - i64::from(self.history_days)) * MICROS_PER_DAY;
        let is_recent = |past: &PastPassword| past.set_at.micros() >= since;
        let by_days = history.iter().rposition(is_recent);
        let by_days = by_days.map_or(0, |last| last + 1);
        by_size.max(by_days).min(MAX_REMEMBERED)
    }
}

/// Returns the strings in a user's data, which a guess at the password could use.
pub(super) fn texts_of(user_data: &Fields) -> Vec<String> {
    let texts = user_data.values().filter_map(text_of);
    texts.map(str::to_owned).collect()
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Returns a string in the form in which strings are compared without case.
///
/// Unlike `str::to_lowercase`, it changes every character on its own, so what occurs in a string
/// occurs in its form, too: the Greek sigma has another small letter at a word's end.
pub fn without_case(text: &str) -> String {
    let lower = text.chars().flat_map(char::to_lowercase);
    lower
        .map(|char| if char == 'ς' { 'σ' } else { char })
        .collect()
}

/// Returns the error for a user whose password must be changed.
pub fn password_expired() -> ApiError {
    violation("PasswordExpired", "password expired").with_status(401)
}

fn violation(reason: &str, message: &str) -> ApiError {
    ApiError::new(Code::PasswordPolicyViolated, message).with_info("reason", reason.into())
}

#[cfg(test)]
mod tests;
