//! Bodies that are hardly JSON, or not JSON at all.

use super::World;

/// Numbers and strings, as raw text, that replace a string in a valid body.
const STRANGE_TEXTS: &[&str] = &[
    "1e400",
    "-1e400",
    "1e-400",
    "-0",
    "-0.0",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "-9223372036854775809",
    "0.1e1",
    "00",
    "+1",
    ".5",
    "NaN",
    "Infinity",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\u0000\"",
    "\"\\x\"",
    "\"\t\"",
    "\"\\uFFFF\"",
    "'x'",
    "tru",
    "{",
    "[",
    "]",
    "",
];

/// Returns copies of the body where one string value or number is replaced by a text, for every
/// place in turn.
fn with_text(body: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut from = 0;
    while let Some(start) = body[from..].find(": ").map(|at| from + at + 2) {
        let rest = &body[start..];
        let end = match rest.as_bytes().first() {
            Some(b'"') => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            Some(b'0'..=b'9') => rest.find([',', '}', ']']).unwrap_or(rest.len()),
            _ => 0,
        };
        if end > 0 {
            out.push(format!("{}{text}{}", &body[..start], &rest[end..]));
        }
        from = start;
    }
    out
}

#[test]
fn numbers_and_texts_at_the_edge_of_json() {
    let world = World::new();
    for request in &world.requests {
        for text in STRANGE_TEXTS {
            for body in with_text(&request.body, text) {
                world.ask(request, body.as_bytes());
            }
        }
    }
    world.assert_well();
}

#[test]
fn bodies_that_are_cut_bent_or_repeated() {
    let world = World::new();
    for request in &world.requests {
        let body = request.body.as_bytes();
        let cuts = (0..body.len()).step_by(1 + body.len() / 16);
        for cut in cuts {
            let answer = world.ask(request, &body[..cut]);
            assert!(cut == 0 || answer.code() == 107, "{cut}: {}", answer.json());
        }
        for place in (0..body.len()).step_by(1 + body.len() / 8) {
            for byte in [0x00, 0xff, 0xc0, b'"', b'\\', b'{'] {
                let mut bent = body.to_vec();
                bent[place] = byte;
                world.ask(request, &bent);
            }
        }
        // Every member twice; the last one counts.
        let inner = request
            .body
            .trim()
            .trim_start_matches('{')
            .trim_end_matches('}');
        world.ask(request, format!("{{{inner}, {inner}}}").as_bytes());
        world.ask(
            request,
            format!("{}{}", request.body, request.body).as_bytes(),
        );
        world.ask(request, format!("\u{feff}{}", request.body).as_bytes());
        let utf16: Vec<u8> = request
            .body
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(world.ask(request, &utf16).code(), 107);
        for whole in ["null", "[]", "1", "\"x\"", "true", "[[[[[[]]]]]]", "}{"] {
            assert_eq!(world.ask(request, whole.as_bytes()).code(), 107, "{whole}");
        }
    }
    world.assert_well();
}

#[test]
fn nesting_without_end_is_refused_everywhere() {
    let world = World::new();
    for request in &world.requests {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            for depth in [63, 64, 1000, 200_000] {
                let inner = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                let first = request.body.split('"').nth(1).unwrap_or("a");
                world.ask(request, format!("{{\"{first}\": {inner}}}").as_bytes());
                world.ask(
                    request,
                    format!("{{\"a\": {}", open.repeat(depth)).as_bytes(),
                );
            }
        }
    }
    world.assert_well();
}
