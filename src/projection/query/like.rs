//! LIKE patterns as SQL conditions.
//!
//! SQLite's own LIKE ignores the case of ASCII letters. Its GLOB does not, and has the same two
//! wildcards. PostgreSQL has LIKE and ILIKE, which in our columns' collation know the case of ASCII
//! letters only.
//!
//! For SQLite's operators, NUL ends a string. PostgreSQL has NUL and U+0001 as two characters each.
//! [`push_searched`] makes up for both.

use skytrail_schema::predicate::like::{Token, parse};

use super::condition::Translated;
use super::path::ColumnRef;
use crate::projection::sql::{Arg, Sql};

/// The maximum length of a pattern, in characters, that the database searches for as it is.
///
/// It can take a step for each pair of a pattern's and a string's characters, and cannot be
/// interrupted within a string. For a longer pattern it finds the strings that match a part of this
/// length.
const MAX_TOKENS: usize = 100;

/// Returns whether SQLite takes other characters for this one: its functions for strings read all of
/// them as U+FFFD.
fn is_confused(token: &Token) -> bool {
    matches!(token, Token::Char('\u{fffd}'..='\u{ffff}'))
}

/// Returns whether the database can express the pattern.
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
pub(super) fn exactly(place: &ColumnRef, pattern: &str) -> Option<Translated> {
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
    if prefix.chars().count() == tokens.len() {
        place.push(&mut sql);
        sql.push("=").bind(Arg::Text(prefix)).push(")");
        return Some(Translated::exact(sql));
    }
    let (tokens, is_whole) = shorten(tokens);
    let is_exact = is_whole && !(place.dialect.is_sqlite() && tokens.iter().any(is_confused));
    // First, since it takes less time than the pattern.
    if let Some(end) = behind(&prefix) {
        place.push(&mut sql);
        sql.push(">=").bind(Arg::Text(prefix)).push(" AND ");
        place.push(&mut sql);
        sql.push("<").bind(Arg::Text(end)).push(" AND ");
    }
    push_searched(&mut sql, place, &tokens)?;
    if place.dialect.is_sqlite() {
        // Given the pattern itself, the database would prepare a statement anew for every pattern.
        sql.push(" GLOB (").bind(Arg::Text(to_glob(&tokens)));
        sql.push("||'')");
    } else {
        sql.push(" LIKE ").bind(Arg::Text(to_like(&tokens)));
    }
    sql.push(")");
    Some(Translated { sql, is_exact })
}

/// Adds the column, for comparing it with the pattern. Strings with NUL, and in PostgreSQL with
/// U+0001, are changed so that they have one character where the record's string has one; all
/// others are compared as they are. Returns `None` if the pattern could tell what was changed.
fn push_searched(sql: &mut Sql, place: &ColumnRef, tokens: &[Token]) -> Option<()> {
    if place.dialect.is_sqlite() {
        push_without_nul(sql, place, stand_in(tokens)?);
        return Some(());
    }
    if !can_meet_escapes(tokens) {
        place.push(sql);
        return Some(());
    }
    // A pattern without these characters cannot tell one from the other.
    if tokens.contains(&Token::Char('\u{1}')) {
        return None;
    }
    sql.push("CASE WHEN strpos(");
    place.push(sql);
    sql.push(r",E'\x01')=0 THEN ");
    place.push(sql);
    sql.push(" ELSE regexp_replace(");
    place.push(sql);
    sql.push(r",E'\x01[01]',E'\x01','g') END");
    Some(())
}

/// Adds the column with another character in place of NUL. SQLite's functions for strings cannot
/// replace NUL, but those for JSON can write and read it as an escape.
fn push_without_nul(sql: &mut Sql, place: &ColumnRef, stand_in: u32) {
    sql.push("CASE WHEN instr(");
    place.push(sql);
    sql.push(",char(0))=0 THEN ");
    place.push(sql);
    // So that no backslash is before `u0000` but that of the escape.
    sql.push(" ELSE json_extract(replace(replace(json_quote(");
    place.push(sql);
    sql.push(r"),'\\','\u005c'),'\u0000',");
    sql.bind(Arg::Text(format!("\\u{stand_in:04x}")));
    sql.push("),'$') END");
}

/// Returns a character without case that the pattern does not look for: one for private use.
fn stand_in(tokens: &[Token]) -> Option<u32> {
    let is_free = |code: &u32| {
        let char = char::from_u32(*code);
        char.is_some_and(|char| !tokens.contains(&Token::Char(char)))
    };
    (0xe000..=0xf8ff).find(is_free)
}

/// Returns whether the pattern, compared with an escaped string, could match a part of an escape:
/// `_` could stand for its first character, and the digit could be looked for after `%`.
fn can_meet_escapes(tokens: &[Token]) -> bool {
    let is_digit = |token: &Token| matches!(token, Token::Char('0' | '1'));
    let mut pairs = tokens.iter().zip(tokens.iter().skip(1));
    tokens.contains(&Token::AnyChar)
        || pairs.any(|(one, next)| *one == Token::AnyRun && is_digit(next))
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
pub(super) fn ignoring_case(place: &ColumnRef, pattern: &str) -> Option<Translated> {
    if !is_sayable(pattern) {
        return None;
    }
    let (mut tokens, mut is_exact) = shorten(parse(pattern));
    for token in &mut tokens {
        if matches!(token, Token::Char(char) if !char.is_ascii()) {
            *token = Token::AnyChar;
            is_exact = false;
        }
    }
    let like = to_like(&tokens);
    let mut sql = Sql::new("(");
    push_searched(&mut sql, place, &tokens)?;
    if place.dialect.is_sqlite() {
        sql.push(" LIKE (").bind(Arg::Text(like));
        sql.push("||'') ESCAPE '\\')");
    } else {
        sql.push(" ILIKE ").bind(Arg::Text(like)).push(")");
    }
    Some(Translated { sql, is_exact })
}

fn to_like(tokens: &[Token]) -> String {
    let mut like = String::new();
    for token in tokens {
        match token {
            Token::AnyRun => like.push('%'),
            Token::AnyChar => like.push('_'),
            Token::Char(char @ ('%' | '_' | '\\')) => {
                like.push('\\');
                like.push(*char);
            }
            Token::Char(char) => like.push(*char),
        }
    }
    like
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
    fn patterns_that_can_meet_escapes() {
        let can_meet = |pattern| can_meet_escapes(&parse(pattern));
        for pattern in ["_", "a_", "%0", "a%1%"] {
            assert!(can_meet(pattern), "{pattern}");
        }
        for pattern in ["%", "a%", "%a0%", "0%", r"%\%0", "\u{1}%"] {
            assert!(!can_meet(pattern), "{pattern}");
        }
    }

    #[test]
    fn nothing_that_is_looked_for_stands_for_nul() {
        let pattern = "\u{e000}\u{e001}";
        assert_eq!(stand_in(&parse("a")), Some(0xe000));
        assert_eq!(stand_in(&parse(pattern)), Some(0xe002));
    }

    #[test]
    fn the_text_behind_a_prefix() {
        assert_eq!(behind("ab").as_deref(), Some("ac"));
        assert_eq!(behind("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(behind("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(behind(""), None);
    }
}
