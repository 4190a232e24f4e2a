//! The byte order mark (U+FEFF), which some editors put in front of a file in UTF-8. It is not a part
//! of the text.

/// Returns a file's text without the mark.
pub(crate) fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
