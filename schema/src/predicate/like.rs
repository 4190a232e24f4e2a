//! SQL LIKE patterns: `%` stands for any run of characters, `_` for one character, and `\` makes
//! the next character literal. A pattern matches a whole string.

use std::borrow::Cow;
use std::collections::HashMap;

/// A part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// `%`
    AnyRun,
    /// `_`
    AnyChar,
    /// A character that stands for itself.
    Char(char),
}

/// Splits a pattern into tokens. A trailing escape stands for itself.
pub fn parse(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '%' => Token::AnyRun,
            '_' => Token::AnyChar,
            '\\' => Token::Char(chars.next().unwrap_or('\\')),
            other => Token::Char(other),
        });
    }
    tokens
}

/// Returns whether the pattern does not end in the middle of an escape.
pub fn is_well_formed(pattern: &str) -> bool {
    let num_escapes = pattern
        .chars()
        .rev()
        .take_while(|char| *char == '\\')
        .count();
    num_escapes % 2 == 0
}

/// The longest pattern, in bytes. With `_` in the pattern, the time to match grows with both
/// lengths.
pub const MAX_PATTERN_BYTES: usize = 4096;

/// Returns whether `pattern` matches all of `text`; `None` if the pattern is too long.
pub fn is_match(text: &str, pattern: &str, is_caseless: bool) -> Option<bool> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return None;
    }
    Some(if is_caseless {
        matches(&fold(text), &parse(&fold(pattern)))
    } else {
        matches(text, &parse(pattern))
    })
}

/// Matches the part before the first `%` at the start of the text and the part after the last `%`
/// at its end.
///
/// Each part in between is matched at the first place where it fits: a later one would only leave
/// less for the rest.
fn matches(text: &str, pattern: &[Token]) -> bool {
    let mut parts = pattern.split(|token| *token == Token::AnyRun);
    let Some(rest) = parts.next().and_then(|first| behind(text, first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    let Some(mut rest) = before(rest, last) else {
        return false;
    };
    parts.all(|part| match after_first(rest, part) {
        Some(behind) => {
            rest = behind;
            true
        }
        None => false,
    })
}

fn fits(token: Token, char: char) -> bool {
    match token {
        Token::AnyRun => false,
        Token::AnyChar => true,
        Token::Char(expected) => expected == char,
    }
}

/// Returns what follows a part with which the text begins.
fn behind<'a>(text: &'a str, part: &[Token]) -> Option<&'a str> {
    let mut chars = text.chars();
    let is_there = part
        .iter()
        .all(|token| chars.next().is_some_and(|char| fits(*token, char)));
    is_there.then_some(chars.as_str())
}

/// Returns what precedes a part with which the text ends.
fn before<'a>(text: &'a str, part: &[Token]) -> Option<&'a str> {
    let mut chars = text.chars();
    let mut backwards = part.iter().rev();
    let is_there = backwards.all(|token| chars.next_back().is_some_and(|it| fits(*token, it)));
    is_there.then_some(chars.as_str())
}

/// Returns what follows the first place at which a part fits.
fn after_first<'a>(text: &'a str, part: &[Token]) -> Option<&'a str> {
    let literal: Option<String> = part
        .iter()
        .map(|token| match token {
            Token::Char(char) => Some(*char),
            Token::AnyRun | Token::AnyChar => None,
        })
        .collect();
    match literal {
        // Takes linear time, whatever the texts are.
        Some(literal) => text.split_once(&literal).map(|(_, behind)| behind),
        None => Wildcards::new(part).after_first(text),
    }
}

/// A part that contains `_`, for a search that reads a text once (shift-and, Baeza-Yates and Gonnet
/// 1992).
///
/// There is a bit for each prefix of the part that matches right before the current character.
struct Wildcards {
    num_tokens: usize,
    /// For each character of the part, the places that it matches.
    places: HashMap<char, Vec<u64>>,
    /// The places that any character matches.
    anywhere: Vec<u64>,
}

impl Wildcards {
    fn new(part: &[Token]) -> Self {
        let num_words = part.len().div_ceil(64);
        let mut anywhere = vec![0; num_words];
        for (at, token) in part.iter().enumerate() {
            if *token == Token::AnyChar {
                set(&mut anywhere, at);
            }
        }
        let mut places = HashMap::new();
        for (at, token) in part.iter().enumerate() {
            if let Token::Char(char) = token {
                set(places.entry(*char).or_insert_with(|| anywhere.clone()), at);
            }
        }
        Self {
            num_tokens: part.len(),
            places,
            anywhere,
        }
    }

    fn after_first<'a>(&self, text: &'a str) -> Option<&'a str> {
        let mut begun = vec![0u64; self.anywhere.len()];
        let last = self.num_tokens.checked_sub(1)?;
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            let places = self.places.get(&char).unwrap_or(&self.anywhere);
            // A match can begin at every character.
            let mut carried = 1;
            for (begun, places) in begun.iter_mut().zip(places) {
                let next = *begun >> 63;
                *begun = (*begun << 1 | carried) & places;
                carried = next;
            }
            if is_set(&begun, last) {
                return Some(chars.as_str());
            }
        }
        None
    }
}

fn set(bits: &mut [u64], at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}

fn is_set(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64)
        .is_some_and(|word| word >> (at % 64) & 1 == 1)
}

/// Folds case for comparisons, character by character.
///
/// A character stays as it is if it has no single lower-case form, or if it lies outside ASCII but
/// its lower-case form lies within (the Kelvin sign). So the number of characters does not change,
/// and ASCII strings are folded exactly as SQLite's LIKE and NOCASE do.
pub fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        }
    } else if text.chars().all(|char| fold_char(char) == char) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().map(fold_char).collect())
    }
}

fn fold_char(char: char) -> char {
    if char.is_ascii() {
        return char.to_ascii_lowercase();
    }
    let mut lower = char.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(single), None) if !single.is_ascii() => single,
        _ => char,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition itself, which takes exponential time.
    fn reference(text: &[char], pattern: &[Token]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((Token::AnyRun, rest)) => {
                (0..=text.len()).any(|skipped| reference(&text[skipped..], rest))
            }
            Some((token, rest)) => match text.split_first() {
                None => false,
                Some((char, text)) => {
                    let is_same = *token == Token::AnyChar || *token == Token::Char(*char);
                    is_same && reference(text, rest)
                }
            },
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(
            text in "[abA%_\\\\éÉ]{0,8}",
            pattern in "[abA%_\\\\éÉ]{0,8}",
        ) {
            let chars: Vec<char> = text.chars().collect();
            let expected = reference(&chars, &parse(&pattern));
            prop_assert_eq!(is_match(&text, &pattern, false), Some(expected));
            let folded: Vec<char> = fold(&text).chars().collect();
            let expected = reference(&folded, &parse(&fold(&pattern)));
            prop_assert_eq!(is_match(&text, &pattern, true), Some(expected));
        }

        #[test]
        fn folding_keeps_the_number_of_characters_and_is_idempotent(text in ".{0,20}") {
            let folded = fold(&text).into_owned();
            prop_assert_eq!(folded.chars().count(), text.chars().count());
            prop_assert_eq!(fold(&folded).into_owned(), folded);
        }
    }

    #[test]
    fn escapes_make_wildcards_plain() {
        assert_eq!(is_match("100%", "100\\%", false), Some(true));
        assert_eq!(is_match("1000", "100\\%", false), Some(false));
        assert_eq!(is_match("a\\b", "a\\\\b", false), Some(true));
        assert!(!is_well_formed("a\\"));
        assert!(is_well_formed("a\\\\"));
    }

    #[test]
    fn case_matters_only_when_asked() {
        assert_eq!(is_match("Grüße", "grÜ%", true), Some(true));
        assert_eq!(is_match("Grüße", "grÜ%", false), Some(false));
        assert_eq!(is_match("\u{212a}", "k", true), Some(false));
    }

    #[test]
    fn long_parts_are_found_across_words() {
        let text = "é".repeat(200) + "b" + &"a".repeat(130) + "c";
        let part = "_".repeat(64) + "b" + &"_".repeat(129) + "a";
        for (pattern, expected) in [
            (format!("%{part}%"), true),
            (format!("%{part}c"), true),
            (format!("%{part}%b%"), false),
            (format!("%b{part}%"), false),
        ] {
            assert_eq!(
                is_match(&text, &pattern, false),
                Some(expected),
                "{pattern}"
            );
        }
    }

    /// An algorithm that takes a step for each pair of characters would not finish within this
    /// test.
    #[test]
    fn no_pattern_takes_long() {
        let text = "a".repeat(1 << 20);
        for part in ["a".repeat(4000) + "b", "_a".repeat(1900) + "_b"] {
            for pattern in [
                format!("%{part}"),
                format!("%{part}%"),
                format!("%a{part}%a%"),
            ] {
                assert_eq!(is_match(&text, &pattern, true), Some(false));
            }
        }
        let pattern = "%a".repeat(MAX_PATTERN_BYTES / 2 - 1) + "%b";
        assert_eq!(is_match(&text, &pattern, false), Some(false));
        assert_eq!(
            is_match(&text, &"a".repeat(MAX_PATTERN_BYTES + 1), false),
            None
        );
    }
}
