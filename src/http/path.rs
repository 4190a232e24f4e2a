//! Paths of requests: decoded, without empty and dotted parts.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Characters that must be escaped in a path. Browsers would read a `\` as a `/`.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Decodes a path once. Invalid UTF-8 is replaced.
pub(super) fn decode(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8_lossy()
}

/// Returns the path to redirect to if a decoded path has empty or dotted parts. A trailing `/`
/// stays.
pub(super) fn cleaned(path: &str) -> Option<String> {
    let is_dirty = |part: &str| part == "." || part == "..";
    if path.starts_with('/') && !path.contains("//") && !path.split('/').any(is_dirty) {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() {
        "/"
    } else {
        ""
    };
    Some(format!("/{}{end}", parts.join("/")))
}

/// Builds the address of a decoded path on this server.
pub(super) fn location(path: &str, query: &str) -> String {
    let path = utf8_percent_encode(path, ESCAPED);
    if query.is_empty() {
        path.to_string()
    } else {
        format!("{path}?{query}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_cleaned() {
        let cases = [
            ("/record/query", None),
            ("/_status/healthz/", None),
            ("/", None),
            ("", Some("/")),
            ("/record//query", Some("/record/query")),
            ("//", Some("/")),
            ("/a/../b", Some("/b")),
            ("/a/./b/", Some("/a/b/")),
            ("/a/..", Some("/")),
            ("/a/../", Some("/")),
            ("/a/b/..", Some("/a")),
            ("/../..", Some("/")),
            ("/a.b/..c", None),
        ];
        for (path, expected) in cases {
            assert_eq!(cleaned(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn addresses_lead_nowhere_else() {
        let sent_on = |path: &str| location(&cleaned(&decode(path)).unwrap(), "a=1");
        assert_eq!(
            sent_on("//evil.example/%2e%2e/x"),
            "/x?a=1",
            "no address of another server"
        );
        assert_eq!(sent_on("//%5Cevil.example"), "/%5Cevil.example?a=1");
        assert_eq!(sent_on("/a//%0d%0ab%3Fc"), "/a/%0D%0Ab%3Fc?a=1");
        assert_eq!(location("/ä b", ""), "/%C3%A4%20b");
    }

    proptest! {
        #[test]
        fn a_cleaned_path_is_clean_and_survives_the_way(
            parts in prop::collection::vec("[a-zäø%\\\\ ?#]{0,3}|\\.|\\.\\.", 0..6),
        ) {
            let path = format!("/{}", parts.join("/"));
            let clean = cleaned(&path).unwrap_or_else(|| path.clone());
            prop_assert_eq!(cleaned(&clean), None, "{} became {}", path, clean);
            prop_assert_eq!(clean.ends_with('/'), clean == "/" || path.ends_with('/'));
            let address = location(&clean, "");
            prop_assert!(!address.starts_with("//") && !address.starts_with("/\\"));
            prop_assert_eq!(decode(&address), clean);
        }
    }
}
