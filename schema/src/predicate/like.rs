//! SQL LIKE patterns: `%` stands for any run of characters, `_` for one, and `\`
//! makes the next character stand for itself. A pattern matches a whole text.

use std::borrow::Cow;

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

/// Splits a pattern. A trailing escape stands for itself.
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

/// Whether the pattern does not end in the middle of an escape.
pub fn is_well_formed(pattern: &str) -> bool {
    let num_escapes = pattern
        .chars()
        .rev()
        .take_while(|char| *char == '\\')
        .count();
    num_escapes % 2 == 0
}

/// Whether `pattern` matches all of `text`.
pub fn is_match(text: &str, pattern: &str, is_caseless: bool) -> bool {
    if is_caseless {
        matches(&fold(text), &parse(&fold(pattern)))
    } else {
        matches(text, &parse(pattern))
    }
}

/// Matches without recursion: only the last `%` ever needs to take one character more.
fn matches(text: &str, pattern: &[Token]) -> bool {
    let mut rest = text.chars();
    let mut at = 0;
    let mut retry = None;
    loop {
        let mut after = rest.clone();
        let next = after.next();
        match (pattern.get(at), next) {
            (None, None) => return true,
            (Some(Token::AnyRun), _) => {
                at += 1;
                retry = Some((at, rest.clone()));
                continue;
            }
            (Some(Token::AnyChar), Some(_)) => {
                at += 1;
                rest = after;
                continue;
            }
            (Some(Token::Char(wanted)), Some(char)) if *wanted == char => {
                at += 1;
                rest = after;
                continue;
            }
            _ => {}
        }
        let Some((resume_at, mut resume_from)) = retry.take() else {
            return false;
        };
        if resume_from.next().is_none() {
            return false;
        }
        at = resume_at;
        rest = resume_from.clone();
        retry = Some((resume_at, resume_from));
    }
}

/// Folds case for comparisons, character by character.
///
/// A character that has no single lower-case form, or one within ASCII although it lies
/// outside (the Kelvin sign), stays as it is. So the number of characters does not change,
/// and ASCII texts are folded exactly as SQLite's LIKE and NOCASE do.
pub fn fold(text: &str) -> Cow<'_, str> {
    if text.chars().all(|char| fold_char(char) == char) {
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

    /// The definition itself, in exponential time.
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
            prop_assert_eq!(is_match(&text, &pattern, false), expected);
            let folded: Vec<char> = fold(&text).chars().collect();
            let expected = reference(&folded, &parse(&fold(&pattern)));
            prop_assert_eq!(is_match(&text, &pattern, true), expected);
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
        assert!(is_match("100%", "100\\%", false));
        assert!(!is_match("1000", "100\\%", false));
        assert!(is_match("a\\b", "a\\\\b", false));
        assert!(!is_well_formed("a\\"));
        assert!(is_well_formed("a\\\\"));
    }

    #[test]
    fn case_matters_only_when_asked() {
        assert!(is_match("Grüße", "grÜ%", true));
        assert!(!is_match("Grüße", "grÜ%", false));
        assert!(!is_match("\u{212a}", "k", true));
    }
}
