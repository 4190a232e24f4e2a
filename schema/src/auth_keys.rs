//! Auth keys: the fields of the user record that identify a user.
//!
//! They are a list of alternatives: `username,(email,phone)` means that a user is identified either
//! by a user name, or by an email address and a phone number together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::value::Value;

/// Values of auth keys, as given at sign-up or login.
pub type AuthData = BTreeMap<String, Value>;

/// The field of the user record that holds the time of the last login.
pub const LAST_LOGIN: &str = "last_login_at";

/// The alternatives, in configured order. The keys of each are sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthKeys(Vec<Vec<String>>);

impl Default for AuthKeys {
    /// A user name or an email address.
    fn default() -> Self {
        Self(vec![vec!["username".to_owned()], vec!["email".to_owned()]])
    }
}

impl AuthKeys {
    /// Parses the form `username,(email,phone)`. Returns `None` for stray or nested parentheses,
    /// invalid field names, and alternatives or keys that are given twice.
    pub fn parse(text: &str) -> Option<Self> {
        let mut alternatives: Vec<Vec<String>> = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (group, behind) = match rest.strip_prefix('(') {
                Some(inside) => inside.split_once(')')?,
                None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
            };
            let keys: Vec<String> = group.split(',').map(|key| key.trim().to_owned()).collect();
            let set: BTreeSet<String> = keys.iter().cloned().collect();
            let sorted: Vec<String> = set.into_iter().collect();
            let is_doubled = sorted.len() < keys.len() || alternatives.contains(&sorted);
            if is_doubled || !sorted.iter().all(|key| is_name(key)) {
                return None;
            }
            alternatives.push(sorted);
            rest = match behind.trim_start().strip_prefix(',') {
                Some(next) if next.trim().is_empty() => return None,
                Some(next) => next.trim_start(),
                None if behind.trim().is_empty() => "",
                None => return None,
            };
        }
        (!alternatives.is_empty()).then_some(Self(alternatives))
    }

    /// Returns the alternatives.
    pub fn alternatives(&self) -> &[Vec<String>] {
        &self.0
    }

    /// Returns every key once.
    pub fn keys(&self) -> BTreeSet<&str> {
        self.0.iter().flatten().map(String::as_str).collect()
    }

    /// Returns the keys that identify a user on their own, in configured order.
    pub fn single(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|keys| match &keys[..] {
            [key] => Some(key.as_str()),
            _ => None,
        })
    }

    /// Returns the first alternative whose keys are all given.
    ///
    /// Returns `None` when there is none, or when a given key belongs to no alternative. Null and
    /// an empty string do not count as given.
    pub fn effective(&self, data: &AuthData) -> Option<&[String]> {
        let all_keys = self.keys();
        let is_given = |key: &String| match data.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        };
        if !data.keys().all(|key| all_keys.contains(key.as_str())) {
            return None;
        }
        let mut alternatives = self.0.iter();
        alternatives
            .find(|alternative| alternative.iter().all(is_given))
            .map(Vec::as_slice)
    }
}

impl fmt::Display for AuthKeys {
    /// Writes the form that [`AuthKeys::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, alternative) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            match alternative.as_slice() {
                [only] => f.write_str(only)?,
                several => write!(f, "({})", several.join(","))?,
            }
        }
        Ok(())
    }
}

fn is_name(key: &str) -> bool {
    !key.is_empty() && !key.starts_with('_') && !key.contains(['(', ')', '"', ','])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = AuthKeys> {
        let alternative = prop::collection::btree_set("[a-z][a-z0-9_]{0,6}", 1..4);
        prop::collection::btree_set(alternative, 1..4).prop_map(|alternatives| {
            let sorted = alternatives
                .into_iter()
                .map(|set| set.into_iter().collect());
            AuthKeys(sorted.collect())
        })
    }

    fn given(names: impl IntoIterator<Item = String>) -> AuthData {
        let text = |name: String| (name, Value::String("x".to_owned()));
        names.into_iter().map(text).collect()
    }

    #[test]
    fn malformed_lists_are_refused() {
        let bad = [
            "",
            ",",
            "a,a",
            "a,",
            "(a,b),(b,a)",
            "(a",
            "a)",
            "((a))",
            "a,,b",
            "()",
            "(a,a)",
            "_id",
            "(a)b",
            "a\"b",
        ];
        for bad in bad {
            assert_eq!(AuthKeys::parse(bad), None, "{bad}");
        }
        assert_eq!(
            AuthKeys::parse("username, email"),
            Some(AuthKeys::default())
        );
    }

    #[test]
    fn an_empty_text_identifies_nobody() {
        let keys = AuthKeys::default();
        let mut data = given(["email".to_owned()]);
        data.insert("username".to_owned(), Value::String(String::new()));
        assert_eq!(keys.effective(&data), Some(["email".to_owned()].as_slice()));
        data.insert("email".to_owned(), Value::Null);
        assert_eq!(keys.effective(&data), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(keys in keys(), spaces in " {0,3}") {
            let text = keys.to_string().replace(',', &format!("{spaces},{spaces}"));
            prop_assert_eq!(AuthKeys::parse(&text), Some(keys));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[ab(), _]{0,12}") {
            if let Some(keys) = AuthKeys::parse(&text) {
                prop_assert_eq!(AuthKeys::parse(&keys.to_string()), Some(keys));
            }
        }

        #[test]
        fn the_first_alternative_that_is_complete_counts(keys in keys(), pick in any::<prop::sample::Index>()) {
            let index = pick.index(keys.0.len());
            let data = given(keys.0[index].clone());
            let effective = keys.effective(&data).map(<[String]>::to_vec);
            let first = keys.0.iter().find(|it| it.iter().all(|key| data.contains_key(key)));
            prop_assert_eq!(effective.as_ref(), first);
            prop_assert!(effective.is_some());
            let mut more = data.clone();
            more.insert("Unknown".to_owned(), Value::Null);
            prop_assert_eq!(keys.effective(&more), None, "a key that nobody knows");
            let mut less = data;
            less.remove(&keys.0[index][0]);
            let complete = keys.effective(&less);
            prop_assert!(complete.is_none_or(|it| it.iter().all(|key| less.contains_key(key))));
        }
    }
}
