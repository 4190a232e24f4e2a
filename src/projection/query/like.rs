//! LIKE patterns as SQL conditions.
//!
//! SQLite's own LIKE ignores the case of ASCII letters. Its GLOB does not, and has the same two
//! wildcards. PostgreSQL has LIKE and ILIKE, which in our columns' collation know the case of ASCII
//! letters only.

use skytrail_schema::predicate::like::{Token, parse};

use super::condition::Translated;
use super::path::Place;
use crate::projection::sql::{Arg, Sql};

/// The maximum length of a pattern, in characters, that the database searches for as it is.
///
/// It can take a step for each pair of a pattern's and a string's characters, and cannot be
/// interrupted within a string. For a longer pattern it finds the strings that match a part of this
/// length.
const MAX_TOKENS: usize = 100;

/// Returns whether the database can express the pattern: it takes NUL for the end of a string.
fn is_sayable(pattern: &str) -> bool {
    !pattern.contains('\0')
}

/// Shortens a pattern to one that matches at least the same. Returns whether it is still the same.
fn shorten(tokens: Vec<Token>) -> (Vec<Token>, bool) {
    if tokens.len() <= MAX_TOKENS {
        return (tokens, true);
    }
    let parts = tokens.split(|token| matches!(token, Token::AnyRun | Token::AnyChar));
    let longest = parts.max_by_key(|part| part.len()).unwrap_or_default();
    let some_of_it = longest.iter().take(MAX_TOKENS - 2).copied();
    let around = || std::iter::once(Token::AnyRun);
    (around().chain(some_of_it).chain(around()).collect(), false)
}

/// Writes that a string column matches a pattern. The fixed beginning of a pattern becomes a range,
/// for which an index can be used.
pub(super) fn exactly(place: &Place, pattern: &str) -> Option<Translated> {
    if !is_sayable(pattern) {
        return None;
    }
    let tokens = parse(pattern);
    let fixed = |token: &Token| match token {
        Token::Char(char) => Some(*char),
        Token::AnyRun | Token::AnyChar => None,
    };
    let prefix: String = tokens.iter().map_while(fixed).collect();
    let mut sql = Sql::new("(");
    place.push(&mut sql);
    if prefix.chars().count() == tokens.len() {
        sql.push("=").bind(Arg::Text(prefix)).push(")");
        return Some(Translated::exact(sql));
    }
    let (tokens, is_exact) = shorten(tokens);
    if place.dialect.is_sqlite() {
        // Given the pattern itself, the database would prepare a statement anew for every pattern.
        sql.push(" GLOB (").bind(Arg::Text(to_glob(&tokens)));
        sql.push("||'')");
    } else {
        let (like, _) = to_like(tokens, |_| true);
        sql.push(" LIKE ").bind(Arg::Text(like));
    }
    if let Some(end) = behind(&prefix) {
        sql.push(" AND ");
        place.push(&mut sql);
        sql.push(">=").bind(Arg::Text(prefix)).push(" AND ");
        place.push(&mut sql);
        sql.push("<").bind(Arg::Text(end));
    }
    sql.push(")");
    Some(Translated { sql, is_exact })
}

fn to_glob(tokens: &[Token]) -> String {
    let mut glob = String::new();
    for token in tokens {
        match token {
            Token::AnyRun => glob.push('*'),
            Token::AnyChar => glob.push('?'),
            Token::Char(char @ ('*' | '?' | '[')) => {
                glob.push('[');
                glob.push(*char);
                glob.push(']');
            }
            Token::Char(char) => glob.push(*char),
        }
    }
    glob
}

/// Returns the smallest string after all strings that begin with `prefix`.
fn behind(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Writes that a string column matches a pattern, ignoring case.
///
/// The database folds ASCII letters as we do, so an ASCII pattern is exact. It does not know the
/// case of other characters, so any character can stand in their places.
pub(super) fn ignoring_case(place: &Place, pattern: &str) -> Option<Translated> {
    if !is_sayable(pattern) {
        return None;
    }
    let (tokens, is_whole) = shorten(parse(pattern));
    let (like, is_known) = to_like(tokens, |char| char.is_ascii());
    let is_exact = is_whole && is_known;
    let mut sql = Sql::new("(");
    place.push(&mut sql);
    if place.dialect.is_sqlite() {
        sql.push(" LIKE (").bind(Arg::Text(like));
        sql.push("||'') ESCAPE '\\')");
    } else {
        sql.push(" ILIKE ").bind(Arg::Text(like)).push(")");
    }
    Some(Translated { sql, is_exact })
}

/// Writes a pattern for LIKE, where any character matches in place of an unknown one. Returns
/// whether all characters were known.
fn to_like(tokens: Vec<Token>, is_known: impl Fn(char) -> bool) -> (String, bool) {
    let mut like = String::new();
    let mut is_exact = true;
    for token in tokens {
        match token {
            Token::AnyRun => like.push('%'),
            Token::AnyChar => like.push('_'),
            Token::Char(char @ ('%' | '_' | '\\')) => {
                like.push('\\');
                like.push(char);
            }
            Token::Char(char) if is_known(char) => like.push(char),
            Token::Char(_) => {
                is_exact = false;
                like.push('_');
            }
        }
    }
    (like, is_exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_globs() {
        assert_eq!(to_glob(&parse(r"a%b_c\%[*")), "a*b?c%[[][*]");
        assert_eq!(to_glob(&parse(r"\")), r"\");
    }

    #[test]
    fn a_long_pattern_is_looked_for_by_a_piece_of_it() {
        let short = parse("%a_b%");
        assert_eq!(shorten(short.clone()), (short, true));
        let (tokens, is_same) = shorten(parse(&format!("a%b_%{}%c", "xy".repeat(200))));
        assert!(!is_same);
        assert_eq!(to_glob(&tokens), format!("*{}*", "xy".repeat(49)));
        let (tokens, _) = shorten(parse(&"_".repeat(200)));
        assert_eq!(to_glob(&tokens), "**");
    }

    #[test]
    fn the_text_behind_a_prefix() {
        assert_eq!(behind("ab").as_deref(), Some("ac"));
        assert_eq!(behind("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(behind("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(behind(""), None);
    }
}
