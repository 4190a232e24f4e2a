//! The rules one by one, and what must hold for any password and history.

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn password(text: &str) -> Password {
    Password::new(text).unwrap()
}

fn reason(result: Result<(), ApiError>) -> Option<String> {
    result
        .err()
        .map(|error| error.info["reason"].as_str().unwrap().to_owned())
}

fn strict() -> PasswordPolicy {
    PasswordPolicy {
        min_length: 6,
        is_uppercase_required: true,
        is_lowercase_required: true,
        is_digit_required: true,
        is_symbol_required: true,
        excluded_keywords: vec!["Admin".to_owned()],
        excluded_fields: vec!["username".to_owned(), "age".to_owned()],
        ..PasswordPolicy::default()
    }
}

#[test]
fn the_first_rule_that_is_broken_is_named() {
    let user = Fields::from_iter([
        ("username".to_owned(), Value::String("Ada".to_owned())),
        ("age".to_owned(), Value::Number(36.0)),
        ("email".to_owned(), Value::String(String::new())),
    ]);
    let cases = [
        ("aB1!", Some("PasswordTooShort")),
        ("ädmin1", Some("PasswordUppercaseRequired")),
        ("ABCDEF1!", Some("PasswordLowercaseRequired")),
        ("Abcdefg!", Some("PasswordDigitRequired")),
        ("Abcdefg1", Some("PasswordSymbolRequired")),
        ("Abcdefg1ä", None),
        ("xADMIN-1x", Some("PasswordContainingExcludedKeywords")),
        ("x-aDa-1X", Some("PasswordContainingExcludedKeywords")),
        ("x-36-1X-x", None),
    ];
    for (text, expected) in cases {
        let found = reason(strict().check_text(&password(text), &user));
        assert_eq!(found.as_deref(), expected, "{text}");
    }
    let short = strict().check_text(&password("ä"), &user).unwrap_err();
    assert_eq!(short.info["pw_length"], 2, "length counts bytes");
    assert_eq!(short.status(), 500);
}

/// The small letter of a sigma depends on its place in the word.
#[test]
fn what_is_excluded_is_found_wherever_a_word_ends() {
    for (name, text) in [
        ("ΝΙΚΟΣ", "ΝΙΚΟΣ-1x-X"),
        ("ΝΙΚΟΣ", "xΝΙΚΟΣx-1X"),
        ("Νίκος", "x-ΝΊΚΟΣ1X"),
        ("νίκος", "νίκοσ-1x-X"),
        ("ΜΑΡΙΟΣ", "-1xXΜΑΡΙΟΣΑ"),
    ] {
        let user = Fields::from_iter([("username".to_owned(), Value::String(name.to_owned()))]);
        let found = reason(strict().check_text(&password(text), &user));
        let expected = Some("PasswordContainingExcludedKeywords");
        assert_eq!(found.as_deref(), expected, "{name} {text}");
    }
}

#[test]
fn an_empty_field_excludes_nothing() {
    let user = Fields::from_iter([("username".to_owned(), Value::String(String::new()))]);
    assert_eq!(
        reason(strict().check_text(&password("Abcd-123"), &user)),
        None
    );
}

#[test]
fn a_password_expires_after_its_last_day() {
    let policy = PasswordPolicy {
        expiry_days: 2,
        ..PasswordPolicy::default()
    };
    let user = UserState {
        password_hash: Some("x".to_owned()),
        token_valid_since: Some(NOW),
        ..UserState::default()
    };
    let after = |micros: i64| Timestamp::from_micros(NOW.micros() + micros);
    assert_eq!(
        reason(policy.refuse_expired(&user, after(2 * MICROS_PER_DAY))),
        None
    );
    let expired = policy.refuse_expired(&user, after(2 * MICROS_PER_DAY + 1));
    assert_eq!(expired.as_ref().unwrap_err().status(), 401);
    assert_eq!(reason(expired).as_deref(), Some("PasswordExpired"));
    let without = UserState {
        password_hash: None,
        ..user.clone()
    };
    assert!(policy.refuse_expired(&without, after(i64::MAX / 2)).is_ok());
    assert!(
        PasswordPolicy::default()
            .refuse_expired(&user, after(i64::MAX / 2))
            .is_ok()
    );
}

#[test]
fn the_days_of_the_history_begin_at_midnight() {
    let policy = PasswordPolicy {
        history_days: 1,
        ..PasswordPolicy::default()
    };
    let midnight = NOW.micros().div_euclid(MICROS_PER_DAY) * MICROS_PER_DAY;
    let past = |set_at: i64| PastPassword {
        hash: set_at.to_string(),
        set_at: Timestamp::from_micros(set_at),
    };
    let (inside, outside) = (midnight - MICROS_PER_DAY, midnight - MICROS_PER_DAY - 1);
    let user = UserState {
        password_history: vec![past(inside), past(outside)],
        ..UserState::default()
    };
    assert_eq!(policy.forbidden_hashes(&user, NOW), [inside.to_string()]);
}

fn histories() -> impl Strategy<Value = Vec<PastPassword>> {
    prop::collection::vec((0_i64..40, "[a-z]{3}"), 0..8).prop_map(|mut entries| {
        entries.sort_by_key(|(days, _)| *days);
        let past = |(days, hash): (i64, String)| PastPassword {
            hash,
            set_at: Timestamp::from_micros(NOW.micros() - days * MICROS_PER_DAY),
        };
        entries.into_iter().map(past).collect()
    })
}

proptest! {
    #[test]
    fn the_default_refuses_nothing(text in "\\PC{1,40}", name in "\\PC{0,5}") {
        let user = Fields::from_iter([("username".to_owned(), Value::String(name))]);
        let policy = PasswordPolicy::default();
        prop_assert!(policy.check_text(&password(&text), &user).is_ok());
        prop_assert!(policy.check_level(1).is_ok());
    }

    #[test]
    fn what_is_accepted_keeps_every_rule(text in "[aB1!ä]{1,12}(admin|ada)?", name in "(ada|)") {
        let user = Fields::from_iter([("username".to_owned(), Value::String(name.clone()))]);
        let accepted = strict().check_text(&password(&text), &user).is_ok();
        let expected = text.len() >= 6
            && text.contains('B')
            && text.contains(['a', 'd', 'm', 'i', 'n'])
            && text.contains('1')
            && text.contains(['!', 'ä'])
            && !text.contains("admin")
            && (name.is_empty() || !text.to_lowercase().contains(&name));
        prop_assert_eq!(accepted, expected);
    }

    #[test]
    fn the_history_keeps_its_window_and_the_window_is_forbidden(
        history in histories(),
        size in 0_usize..6,
        days in 0_u32..45,
    ) {
        let policy = PasswordPolicy { history_size: size, history_days: days, ..Default::default() };
        let user = UserState {
            password_hash: Some("present".to_owned()),
            password_history: history.clone(),
            ..UserState::default()
        };
        let forbidden = policy.forbidden_hashes(&user, NOW);
        if size == 0 && days == 0 {
            prop_assert!(forbidden.is_empty());
        } else {
            prop_assert!(forbidden.contains(&"present".to_owned()));
            for past in history.iter().take(size) {
                prop_assert!(forbidden.contains(&past.hash));
            }
        }
        let set = policy.set(&user, "new".to_owned(), NOW);
        prop_assert!(set.num_kept >= size.min(history.len() + 1));
        prop_assert!(set.num_kept <= history.len() + 1);
        prop_assert_eq!(set.num_kept == 0, size == 0 && days == 0);
        let remembered = policy.remember("new".to_owned(), &history, NOW);
        prop_assert_eq!(remembered.len(), set.num_kept);
    }
}
