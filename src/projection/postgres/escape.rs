//! Strings for PostgreSQL, which does not accept NUL.
//!
//! NUL is written as U+0001 and `0`, U+0001 itself as U+0001 and `1`. Different strings stay
//! different and keep their order. Strings in JSON are escaped in the same way.

use std::borrow::Cow;

const MARK: char = '\u{1}';

/// Escapes a string for the database.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', MARK]) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        match char {
            '\0' => escaped.push_str("\u{1}0"),
            MARK => escaped.push_str("\u{1}1"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// Unescapes a string from the database.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains(MARK) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(MARK) {
        plain.push_str(before);
        // Other programs can write the mark without a digit.
        let (char, remainder) = match after.strip_prefix('0') {
            Some(remainder) => ('\0', remainder),
            None => (MARK, after.strip_prefix('1').unwrap_or(after)),
        };
        plain.push(char);
        rest = remainder;
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// Escapes JSON for the database. The database's numbers are decimal, so floats are written in a
/// way that they come back as floats, however large they are.
pub(super) fn escape_json(text: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    let text = if text.contains("\\u000") {
        Cow::Owned(rewrite(text, |rest| match rest.get(..4) {
            Some("0000") => Some((4, "\\u00010")),
            Some("0001") => Some((4, "\\u00011")),
            _ => None,
        }))
    } else {
        Cow::Borrowed(text)
    };
    let bytes = text.as_bytes();
    let has_exponent = |pair: &[u8]| matches!(pair, [b'0'..=b'9', b'e' | b'E']);
    if !bytes.windows(2).any(has_exponent) {
        return Ok(text);
    }
    let value = skytrail_schema::json::from_str(&text)?;
    let mut out = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut out, Decimal);
    serde::Serialize::serialize(&value, &mut writer)?;
    String::from_utf8(out)
        .map(Cow::Owned)
        .map_err(serde::ser::Error::custom)
}

/// Unescapes JSON from the database.
pub(in crate::projection) fn unescape_json(text: &str) -> Cow<'_, str> {
    if !text.contains("\\u0001") {
        return Cow::Borrowed(text);
    }
    Cow::Owned(rewrite(text, |rest| match rest.get(..5) {
        Some("00010") => Some((5, "\\u0000")),
        Some("00011") => Some((5, "\\u0001")),
        _ => None,
    }))
}

/// Replaces some of JSON's `\u` escapes. `other` looks at what follows `\u`, and returns how much
/// of it to replace, and by what.
fn rewrite(json: &str, other: impl Fn(&str) -> Option<(usize, &'static str)>) -> String {
    let mut written = String::with_capacity(json.len() + 8);
    let mut rest = json;
    while let Some((before, behind)) = rest.split_once('\\') {
        written.push_str(before);
        let of_unicode = behind.strip_prefix('u');
        let (text, remainder) = match of_unicode.and_then(|code| Some((code, other(code)?))) {
            Some((code, (length, text))) => (text, code.get(length..)),
            None => {
                written.push('\\');
                let length = behind.chars().next().map_or(0, char::len_utf8);
                (
                    behind.get(..length).unwrap_or_default(),
                    behind.get(length..),
                )
            }
        };
        written.push_str(text);
        rest = remainder.unwrap_or_default();
    }
    written.push_str(rest);
    written
}

/// Writes floats without exponents.
struct Decimal;

impl serde_json::ser::Formatter for Decimal {
    fn write_f64<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        value: f64,
    ) -> std::io::Result<()> {
        let point = if value.fract() == 0.0 { ".0" } else { "" };
        write!(out, "{value}{point}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        proptest::string::string_regex("[\\x00\\x01\\x0201ab\\\\u\"e]{0,6}").unwrap()
    }

    #[test]
    fn a_mark_that_escapes_nothing_stays() {
        assert_eq!(unescape("a\u{1}b\u{1}"), "a\u{1}b\u{1}");
        assert_eq!(unescape("\u{1}\u{1}0\u{1}12"), "\u{1}\0\u{1}2");
    }

    proptest! {
        #[test]
        fn texts_come_back_and_keep_their_order(one in text(), two in text()) {
            let (first, second) = (escape(&one), escape(&two));
            prop_assert!(!first.contains('\0'));
            prop_assert_eq!(unescape(&first), &one[..]);
            prop_assert_eq!(first.cmp(&second), one.cmp(&two));
        }

        #[test]
        fn json_comes_back(key in text(), value in text(), number in any::<f64>()) {
            let json = json!({key: [value, number, 1e300, 1e16, 5]});
            let written = json.to_string();
            let escaped = escape_json(&written).unwrap();
            prop_assert!(!escaped.contains("\\u0000"));
            let read: Value = serde_json::from_str(&unescape_json(&escaped)).unwrap();
            prop_assert_eq!(read, json);
        }
    }
}
