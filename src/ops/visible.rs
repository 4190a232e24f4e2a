//! Lines for people, in which nothing that others wrote can pass for something else.
//!
//! Names and values come from clients. A line break in one of them would begin a line that looks
//! like the program's own, an escape sequence would control the terminal, and a change of the
//! writing direction would reorder what is read.

use std::borrow::Cow;

/// Returns the line with control characters, line separators and characters that change the writing
/// direction as `\u{…}`.
pub(super) fn visible(line: &str) -> Cow<'_, str> {
    if !line.contains(is_hidden) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len() + 8);
    for char in line.chars() {
        if is_hidden(char) {
            shown.extend(char.escape_unicode());
        } else {
            shown.push(char);
        }
    }
    Cow::Owned(shown)
}

fn is_hidden(char: char) -> bool {
    let is_separator_or_direction = matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    char.is_control() || is_separator_or_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_spelled_out() {
        let cases = [
            ("a\nb", r"a\u{a}b"),
            ("a\r\tb", r"a\u{d}\u{9}b"),
            ("\u{1b}[2J\u{7}", r"\u{1b}[2J\u{7}"),
            ("\0\u{7f}\u{85}\u{9b}", r"\u{0}\u{7f}\u{85}\u{9b}"),
            ("\u{2028}\u{2029}", r"\u{2028}\u{2029}"),
            ("\u{61c}\u{200e}\u{200f}", r"\u{61c}\u{200e}\u{200f}"),
            ("\u{202a}x\u{202e}", r"\u{202a}x\u{202e}"),
            ("\u{2066}x\u{2069}", r"\u{2066}x\u{2069}"),
        ];
        for (line, expected) in cases {
            assert_eq!(visible(line), expected);
        }
        for line in ["", "note/Grüße 文 שלום 👩\u{200d}🚀", r"C:\u{a}"] {
            assert!(matches!(visible(line), Cow::Borrowed(same) if same == line));
        }
    }
}
