//! LIKE patterns as SQL conditions.
//!
//! The database's own LIKE ignores the case of ASCII letters, which is never what
//! the protocol wants. Its GLOB does not, and has the same two wildcards.

use crate::projection::sql::{Arg, Sql};

/// A part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Any run of characters.
    Run,
    /// One character.
    One,
    /// That character.
    Exactly(char),
}

fn parse(pattern: &str) -> Vec<Part> {
    let mut chars = pattern.chars();
    let mut parts = Vec::new();
    while let Some(next) = chars.next() {
        parts.push(match next {
            '%' => Part::Run,
            '_' => Part::One,
            '\\' => Part::Exactly(chars.next().unwrap_or('\\')),
            other => Part::Exactly(other),
        });
    }
    parts
}

/// Says that a text column matches a pattern; the fixed beginning of a pattern becomes a range, for
/// which an index serves.
pub(super) fn exactly(column: &dyn Fn(&mut Sql), pattern: &str) -> Sql {
    let parts = parse(pattern);
    let fixed = |part: &Part| match part {
        Part::Exactly(char) => Some(*char),
        _ => None,
    };
    let prefix: String = parts.iter().map_while(fixed).collect();
    let mut sql = Sql::new("(");
    if prefix.chars().count() == parts.len() {
        column(&mut sql);
        sql.push("=").bind(Arg::Text(prefix)).push(")");
        return sql;
    }
    column(&mut sql);
    sql.push(" GLOB ").bind(Arg::Text(to_glob(&parts)));
    if let Some(end) = behind(&prefix) {
        sql.push(" AND ");
        column(&mut sql);
        sql.push(">=").bind(Arg::Text(prefix)).push(" AND ");
        column(&mut sql);
        sql.push("<").bind(Arg::Text(end));
    }
    sql.push(")");
    sql
}

fn to_glob(parts: &[Part]) -> String {
    let mut glob = String::new();
    for part in parts {
        match part {
            Part::Run => glob.push('*'),
            Part::One => glob.push('?'),
            Part::Exactly(char @ ('*' | '?' | '[')) => {
                glob.push('[');
                glob.push(*char);
                glob.push(']');
            }
            Part::Exactly(char) => glob.push(*char),
        }
    }
    glob
}

/// Returns the smallest text behind all texts that begin with `prefix`.
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

/// Says something that holds whenever a text column matches a pattern in any case.
///
/// The database knows the case of ASCII letters only. Where Unicode has other relatives of a
/// character (`K` of kelvin, dotted `i`), the pattern takes anything.
pub(super) fn ignoring_case(column: &dyn Fn(&mut Sql), pattern: &str) -> Sql {
    let mut like = String::new();
    for part in parse(pattern) {
        match part {
            Part::Exactly(char @ ('%' | '_' | '\\')) => {
                like.push('\\');
                like.push(char);
            }
            Part::Exactly(char) if char.is_ascii() && !matches!(char, 'i' | 'I' | 'k' | 'K') => {
                like.push(char);
            }
            _ if like.ends_with('%') && !like.ends_with("\\%") => {}
            _ => like.push('%'),
        }
    }
    let mut sql = Sql::new("(");
    column(&mut sql);
    sql.push(" LIKE ")
        .bind(Arg::Text(like))
        .push(" ESCAPE '\\')");
    sql
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
    fn the_text_behind_a_prefix() {
        assert_eq!(behind("ab").as_deref(), Some("ac"));
        assert_eq!(behind("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(behind("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(behind(""), None);
    }
}
