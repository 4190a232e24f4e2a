//! Reads JSON in which every object is only an object.
//!
//! `serde_json` represents raw JSON as an object with one key of its own, and treats every object
//! that begins with that key as raw JSON: its text is parsed again, to any depth. In JSON that
//! others sent, or that was stored for them, this key must be a key like any other. So all such
//! JSON is read here, and not as a `serde_json::Value`.
//!
//! A string that was cut in the middle of a character is no reason to refuse everything around it.
//! What is left of the character, half of a pair of `\u` escapes or bytes that are not UTF-8, is
//! read as U+FFFD.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value as Json};

/// Reads a whole number from 0. Some encoders write every number with a fraction, as in `5.0`.
pub fn whole_number(value: &Json) -> Option<u64> {
    const LIMIT: f64 = 1e15;
    let is_whole = |it: &f64| it.fract() == 0.0 && (0.0..LIMIT).contains(it);
    let whole = || value.as_f64().filter(is_whole);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be whole and within range"
    )]
    value.as_u64().or_else(|| whole().map(|it| it as u64))
}

/// Returns an object's members. An empty list is an empty object, because PHP writes both as `[]`.
///
/// # Errors
/// The value, if it is anything else.
pub fn into_object(value: Json) -> Result<Map<String, Json>, Json> {
    match value {
        Json::Object(members) => Ok(members),
        Json::Array(items) if items.is_empty() => Ok(Map::new()),
        other => Err(other),
    }
}

/// Names the type of a value, for messages about a value of the wrong type.
pub fn type_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// A JSON value, to be read as part of something else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plain(pub Json);

/// Parses a string.
///
/// # Errors
/// It is not JSON, or nested too deeply for the parser.
pub fn from_str(text: &str) -> serde_json::Result<Json> {
    typed(text).map(|Plain(json)| json)
}

/// Parses bytes of UTF-8.
///
/// # Errors
/// As [`from_str`].
pub fn from_slice(text: &[u8]) -> serde_json::Result<Json> {
    let read = serde_json::from_slice(text);
    let read = read.or_else(|error| once_more(text, error, |text| serde_json::from_str(text)));
    read.map(|Plain(json)| json)
}

/// Parses a string into a given type.
///
/// # Errors
/// As [`from_str`], or it does not fit the type.
pub fn typed<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    let read = |text: &str| serde_json::from_str(text);
    read(text).or_else(|error| once_more(text.as_bytes(), error, read))
}

/// Parses the object at the start of a text, whatever follows it.
///
/// # Errors
/// As [`from_slice`], or it is not an object.
pub fn leading_object(text: &[u8]) -> serde_json::Result<Map<String, Json>> {
    let read = members(&mut serde_json::Deserializer::from_slice(text));
    read.or_else(|error| {
        once_more(text, error, |text| {
            members(&mut serde_json::Deserializer::from_str(text))
        })
    })
}

/// Parses a refused text again, if something in it can be mended.
fn once_more<T>(
    text: &[u8],
    error: serde_json::Error,
    read: impl FnOnce(&str) -> serde_json::Result<T>,
) -> serde_json::Result<T> {
    let mended = mended(text);
    if mended.as_bytes() == text {
        return Err(error);
    }
    read(&mended)
}

/// Replaces bytes that are not UTF-8 with U+FFFD, and halves of surrogate pairs with its escape,
/// which has the same length.
///
/// Nothing that opens or closes anything is added or removed, so limits that held before still
/// hold.
fn mended(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut mended = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        mended.push_str(before);
        let (len, is_half) = match code_unit(escape) {
            Some(0xD800..=0xDBFF) if is_low(escape.get(6..)) => (12, false),
            Some(0xD800..=0xDFFF) => (6, true),
            // The next character may be another backslash, which does not begin an escape here.
            _ => {
                let end = escape.char_indices().nth(2);
                (end.map_or(escape.len(), |(end, _)| end), false)
            }
        };
        let (escape, behind) = escape.split_at(len);
        mended.push_str(if is_half { r"\ufffd" } else { escape });
        rest = behind;
    }
    mended.push_str(rest);
    mended
}

/// Parses the `\uXXXX` at the start of a text.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix(r"\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

fn is_low(text: Option<&str>) -> bool {
    matches!(text.and_then(code_unit), Some(0xDC00..=0xDFFF))
}

/// Reads a member that may contain anything.
///
/// # Errors
/// Those of the text.
pub fn value<'de, D: Deserializer<'de>>(from: D) -> Result<Json, D::Error> {
    Plain::deserialize(from).map(|plain| plain.0)
}

/// Reads an object whose members may contain anything.
///
/// # Errors
/// Those of the text, or it is not an object.
pub fn members<'de, D, M>(from: D) -> Result<M, D::Error>
where
    D: Deserializer<'de>,
    M: FromIterator<(String, Json)>,
{
    let Members(members) = Members::deserialize(from)?;
    Ok(members.into_iter().collect())
}

/// Reads a list whose items may be anything.
///
/// # Errors
/// Those of the text, or it is not a list.
pub fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Json>, D::Error> {
    let items = Vec::<Plain>::deserialize(from)?;
    Ok(items.into_iter().map(|plain| plain.0).collect())
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Json;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(Plain(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Json, A::Error> {
        MembersVisitor.visit_map(members).map(Json::Object)
    }
}

/// An object, to be read as part of something else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members(pub Map<String, Json>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(MembersVisitor).map(Self)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Map<String, Json>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Plain(value))) = from.next_entry()? {
            members.insert(name, value);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const KEY: &str = "$serde_json::private::RawValue";

    #[test]
    fn whole_numbers_may_have_a_fraction_of_nothing() {
        let whole = [(json!(5), 5), (json!(5.0), 5), (json!(-0.0), 0)];
        for (value, number) in whole.into_iter().chain([(json!(u64::MAX), u64::MAX)]) {
            assert_eq!(whole_number(&value), Some(number), "{value}");
        }
        for odd in [
            json!(5.5),
            json!(-1),
            json!(-1.0),
            json!(1e15),
            json!("5"),
            json!(null),
        ] {
            assert_eq!(whole_number(&odd), None, "{odd}");
        }
    }

    #[test]
    fn an_empty_list_may_stand_for_an_object() {
        assert_eq!(into_object(json!([])), Ok(Map::new()));
        assert_eq!(into_object(json!({"a": 1})).unwrap()["a"], 1);
        for odd in [json!([1]), json!(null), json!("{}")] {
            assert_eq!(into_object(odd.clone()), Err(odd));
        }
    }

    fn any_json(key: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            ".*".prop_map(Json::from),
        ];
        let key = key.boxed();
        leaf.prop_recursive(5, 40, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map(key.clone(), inner, 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    fn keys_with_that_one() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(KEY.to_owned()),
            Just("$serde_json::private::Number".to_owned()),
            ".{0,3}".prop_map(String::from),
        ]
    }

    proptest! {
        #[test]
        fn what_has_not_that_key_is_read_as_ever(value in any_json(".*".prop_map(String::from))) {
            let text = value.to_string();
            prop_assert_eq!(from_str(&text).unwrap(), serde_json::from_str::<Json>(&text).unwrap());
        }

        #[test]
        fn whatever_is_written_is_read_again(value in any_json(keys_with_that_one())) {
            let text = value.to_string();
            prop_assert_eq!(&from_str(&text).unwrap(), &value);
            prop_assert_eq!(&from_slice(text.as_bytes()).unwrap(), &value);
            prop_assert_eq!(&Plain::deserialize(&value).unwrap().0, &value);
            prop_assert_eq!(&Plain::deserialize(value.clone()).unwrap().0, &value);
            prop_assert_eq!(&serde_json::to_value(&value).unwrap(), &value);
            let as_map: Result<Map<String, Json>, _> = members(&value);
            prop_assert_eq!(as_map.ok(), value.as_object().cloned());
            prop_assert_eq!(list(&value).ok(), value.as_array().cloned());
        }

        #[test]
        fn any_text_is_taken_or_refused_as_ever(text in "[\\[\\]{},:\" 0-9a-z.\\\\-]{0,20}") {
            let ever: Option<Json> = serde_json::from_str(&text).ok();
            prop_assert_eq!(from_str(&text).ok(), ever);
        }
    }

    /// Possible pieces of a string, as written and as read. None ends with half of a pair that the
    /// next one would complete.
    fn pieces() -> impl Strategy<Value = (Vec<u8>, String)> {
        let piece = prop::sample::select(vec![
            (br"\\".as_slice(), r"\"),
            (br"\\ud83d", r"\ud83d"),
            (br"\u005c", r"\"),
            (br#"\""#, "\""),
            (br"\ud83d\ude00", "\u{1f600}"),
            (br"\ude00", "\u{fffd}"),
            (br"\uD83Dx", "\u{fffd}x"),
            (br"\ud83d\u0041", "\u{fffd}A"),
            (br"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (br"ude00", "ude00"),
            ("é\u{1f600}".as_bytes(), "é\u{1f600}"),
            (b"\xff", "\u{fffd}"),
            (b"\xf0\x9f.", "\u{fffd}."),
        ]);
        prop::collection::vec(piece, 0..8).prop_map(|pieces| {
            let (written, read): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
            (written.concat(), read.concat())
        })
    }

    proptest! {
        #[test]
        fn half_a_character_is_replaced_and_nothing_else((written, read) in pieces()) {
            let text = [br#"{"x":""#, &written[..], br#""}"#].concat();
            let expected = json!({"x": read});
            prop_assert_eq!(from_slice(&text).unwrap(), expected.clone());
            let behind = [&text[..], b" and so on"].concat();
            prop_assert_eq!(Json::Object(leading_object(&behind).unwrap()), expected.clone());
            if let Ok(text) = str::from_utf8(&text) {
                prop_assert_eq!(from_str(text).unwrap(), expected);
            }
            let name = [br#"{""#, &written[..], br#" \ud800":1}"#].concat();
            prop_assert_eq!(from_slice(&name).unwrap(), json!({format!("{read} \u{fffd}"): 1}));
        }

        #[test]
        fn what_can_be_read_is_not_mended(value in any_json(".*".prop_map(String::from))) {
            let text = value.to_string();
            prop_assert_eq!(mended(text.as_bytes()), text);
        }

        #[test]
        fn mending_leaves_no_halves_and_the_structure_as_it_is(text in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(br#"\\\\uuddd8cD00""#.to_vec())], 0..40,
        )) {
            let once = mended(&text);
            prop_assert_eq!(&mended(once.as_bytes()), &once);
            let marks = |text: &[u8]| {
                let marks = text.iter().filter(|byte| br#"{}[],:"\"#.contains(byte));
                marks.copied().collect::<Vec<_>>()
            };
            prop_assert_eq!(marks(once.as_bytes()), marks(&text));
        }
    }

    #[test]
    fn what_is_no_json_for_other_reasons_stays_so() {
        for text in [
            r#"{"a":"\ud800""#,
            r#""\ud8""#,
            r#""\x\ud800""#,
            r"\ud800",
            r#""\"#,
        ] {
            assert!(from_str(text).is_err(), "{text}");
        }
        let deep = format!(r#"{}"\ud800"{}"#, "[".repeat(1000), "]".repeat(1000));
        assert!(from_str(&deep).is_err());
        assert!(leading_object(br#"["\ud800"]"#).is_err());
    }

    #[test]
    fn texts_within_texts_are_not_parsed() {
        let inner = json!({KEY: "not JSON"}).to_string();
        let outer = json!({KEY: inner});
        assert_eq!(from_str(&outer.to_string()).unwrap(), outer);
    }

    #[test]
    fn the_last_of_two_members_counts_and_nesting_has_an_end() {
        assert_eq!(from_str(r#"{"a":1,"a":2}"#).unwrap(), json!({"a": 2}));
        assert!(from_str(&"[".repeat(100_000)).is_err());
    }
}
