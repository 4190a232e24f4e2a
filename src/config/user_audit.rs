//! Settings for users' passwords: `USER_AUDIT_PW_…`, with v1's names.

use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::policy::{MAX_REMEMBERED, PasswordPolicy};

use super::source::Reader;

/// More days than anyone needs, and few enough to be counted in microseconds.
const MAX_DAYS: u32 = 100_000;

/// Reads the password policy; without any settings it refuses nothing.
pub(super) fn read_policy(reader: &mut Reader<'_>) -> PasswordPolicy {
    let name = |name: &str| format!("USER_AUDIT_PW_{name}");
    let min_length = reader.count(&name("MIN_LENGTH"), 1 << 20);
    let min_guessable_level = reader.count(&name("MIN_GUESSABLE_LEVEL"), 5);
    let history_size = reader.count(&name("HISTORY_SIZE"), MAX_REMEMBERED);
    let [history_days, expiry_days] =
        ["HISTORY_DAYS", "EXPIRY_DAYS"].map(|what| reader.count(&name(what), MAX_DAYS));
    let mut is_required = |what: &str| reader.boolean(&name(what), false);
    PasswordPolicy {
        min_length,
        is_uppercase_required: is_required("UPPERCASE_REQUIRED"),
        is_lowercase_required: is_required("LOWERCASE_REQUIRED"),
        is_digit_required: is_required("DIGIT_REQUIRED"),
        is_symbol_required: is_required("SYMBOL_REQUIRED"),
        min_guessable_level,
        excluded_keywords: reader.list(&name("EXCLUDED_KEYWORDS")),
        excluded_fields: reader.list(&name("EXCLUDED_FIELDS")),
        history_size,
        history_days,
        expiry_days,
    }
}

/// Returns the policy in the form that plugins know.
pub(super) fn policy_for_plugins(policy: &PasswordPolicy) -> Map<String, Json> {
    let list = |items: &[String]| {
        if items.is_empty() {
            Json::Null
        } else {
            json!(items)
        }
    };
    let members = [
        ("pw_min_length", json!(policy.min_length)),
        ("pw_uppercase_required", json!(policy.is_uppercase_required)),
        ("pw_lowercase_required", json!(policy.is_lowercase_required)),
        ("pw_digit_required", json!(policy.is_digit_required)),
        ("pw_symbol_required", json!(policy.is_symbol_required)),
        ("pw_min_guessable_level", json!(policy.min_guessable_level)),
        ("pw_excluded_keywords", list(&policy.excluded_keywords)),
        ("pw_excluded_fields", list(&policy.excluded_fields)),
        ("pw_history_size", json!(policy.history_size)),
        ("pw_history_days", json!(policy.history_days)),
        ("pw_expiry_days", json!(policy.expiry_days)),
    ];
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
