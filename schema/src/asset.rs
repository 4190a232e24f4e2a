//! Files as values of fields: finding them within a value, names that stay below one folder, and
//! media types that fit in a header.

use serde_json::Value as Json;
use uuid::Uuid;

use crate::id::AssetName;
use crate::value::{Asset, Value};

/// The longest name, in bytes: object stores accept no longer key.
const MAX_NAME_BYTES: usize = 1024;
/// The longest part between slashes, in bytes: file systems accept no longer one.
const MAX_PART_BYTES: usize = 255;
/// The longest last part of a new file's name, in bytes, without the id and the hyphen that
/// [`AssetName::unique`] puts in front of it.
pub const MAX_FILE_NAME_BYTES: usize = MAX_PART_BYTES - uuid::fmt::Hyphenated::LENGTH - 1;
/// The longest media type, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;
/// The media type of a file whose type is unknown.
pub const UNKNOWN_CONTENT_TYPE: &str = "application/octet-stream";

impl Value {
    /// Calls `see` with the name of every file in the value, at any depth.
    pub fn see_assets(&self, see: &mut dyn FnMut(&str)) {
        match self {
            Self::Asset(asset) => see(&asset.name),
            Self::Json(json) => see_assets(json, see),
            _ => {}
        }
    }

    /// Calls `edit` for every file in the value, at any depth.
    pub fn edit_assets(&mut self, edit: &mut dyn FnMut(&mut Asset)) {
        match self {
            Self::Asset(asset) => edit(asset),
            Self::Json(json) => edit_assets(json, edit),
            _ => {}
        }
    }
}

/// Returns whether a media type can be stored.
///
/// It is sent as a header to everyone who fetches the file, and every record that names the file
/// contains it.
pub fn is_content_type(text: &str) -> bool {
    let is_held = |byte| matches!(byte, b'\t' | b' '..=b'~');
    text.len() <= MAX_CONTENT_TYPE_BYTES && text.bytes().all(is_held)
}

/// Returns a stored media type, or the unknown one if it was stored before there were limits and
/// exceeds them.
pub fn content_type_or_unknown(text: String) -> String {
    if is_content_type(&text) {
        text
    } else {
        UNKNOWN_CONTENT_TYPE.to_owned()
    }
}

/// Calls `see` with the name of every file in a wire value, at any depth.
pub fn see_assets(json: &Json, see: &mut dyn FnMut(&str)) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| see_assets(item, see)),
        Json::Object(object) => match Asset::from_wire(object) {
            Some(asset) => see(&asset.name),
            None => object.values().for_each(|member| see_assets(member, see)),
        },
        _ => {}
    }
}

/// Calls `edit` for every file in a wire value, at any depth.
pub fn edit_assets(json: &mut Json, edit: &mut dyn FnMut(&mut Asset)) {
    match json {
        Json::Array(items) => items.iter_mut().for_each(|item| edit_assets(item, edit)),
        Json::Object(object) => match Asset::from_wire(object) {
            Some(mut asset) => {
                edit(&mut asset);
                *json = asset.to_wire();
            }
            None => object
                .values_mut()
                .for_each(|member| edit_assets(member, edit)),
        },
        _ => {}
    }
}

impl AssetName {
    /// Creates a name from what a client sent, as v1 does. It drops parts that are empty or dots,
    /// leading slashes and dots, every `..` and every `+`.
    ///
    /// Returns `None` when nothing is left, for control characters, and for names that no store
    /// accepts.
    pub fn clean(raw: &str) -> Option<Self> {
        let mut name = raw.to_owned();
        loop {
            let cleaned = clean_once(&name);
            if cleaned == name {
                break;
            }
            name = cleaned;
        }
        let is_short = |part: &str| part.len() <= MAX_PART_BYTES;
        let is_storable = !name.is_empty()
            && name.len() <= MAX_NAME_BYTES
            && name.split('/').all(is_short)
            && !name.chars().any(char::is_control);
        is_storable.then(|| Self::from(name))
    }

    /// Returns the name of a new file: in the folder of `raw`, `id` followed by the last part of
    /// `raw`.
    ///
    /// Returns `None` when that is not a valid name, see [`AssetName::clean`]; also if the last part
    /// has more than [`MAX_FILE_NAME_BYTES`].
    pub fn unique(raw: &str, id: Uuid) -> Option<Self> {
        let (folder, file) = raw.rsplit_once('/').unwrap_or(("", raw));
        Self::clean(file)?;
        Self::clean(&format!("{folder}/{id}-{file}"))
    }

    /// Returns the folders that contain the file, outermost first. None of them can be a file.
    pub fn folders(&self) -> impl Iterator<Item = Self> {
        let name = self.as_str();
        name.match_indices('/')
            .map(|(end, _)| Self::from(name.split_at(end).0))
    }
}

fn clean_once(name: &str) -> String {
    let name = name.replace(['+'], "").replace("..", "");
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        if !matches!(part, "" | ".") {
            parts.push(part);
        }
    }
    parts.join("/").trim_start_matches(['/', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn clean(raw: &str) -> Option<String> {
        AssetName::clean(raw).map(|name| name.to_string())
    }

    #[test]
    fn names_are_cleaned_as_v1_does() {
        let cases = [
            ("a.txt", "a.txt"),
            ("dir/a.txt", "dir/a.txt"),
            ("/etc/passwd", "etc/passwd"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/.../b", "a/b"),
            ("a//b/./c", "a/b/c"),
            (".hidden", "hidden"),
            ("1+1=2.txt", "11=2.txt"),
            ("a..b", "ab"),
            (".+./x", "x"),
            ("..\\..\\x", "\\\\x"),
            ("Grüße 文.png", "Grüße 文.png"),
        ];
        for (raw, expected) in cases {
            assert_eq!(clean(raw).as_deref(), Some(expected), "{raw}");
        }
        let long = "x".repeat(256);
        let deep = "x/".repeat(600);
        for raw in ["", "/", "..", "+", "a\0b", "a\nb", "a\x7f", &long, &deep] {
            assert_eq!(clean(raw), None, "{raw:?}");
        }
    }

    #[test]
    fn media_types_are_what_a_header_holds() {
        let longest = "x".repeat(MAX_CONTENT_TYPE_BYTES);
        for text in ["", "text/plain; charset=\"utf-8\"", "a\tb", &longest] {
            assert_eq!(content_type_or_unknown(text.to_owned()), text);
        }
        let longer = "x".repeat(MAX_CONTENT_TYPE_BYTES + 1);
        for text in ["a\nb", "a\rb", "a\0", "a\x7f", "ü", &longer] {
            assert_eq!(
                content_type_or_unknown(text.to_owned()),
                UNKNOWN_CONTENT_TYPE
            );
        }
    }

    #[test]
    fn a_name_says_its_folders() {
        let folders = |name: &str| {
            let folders = AssetName::from(name);
            let folders = folders.folders().map(|folder| folder.to_string());
            folders.collect::<Vec<_>>()
        };
        assert_eq!(folders("é/b/c.txt"), ["é", "é/b"]);
        assert_eq!(folders("a.txt"), Vec::<String>::new());
    }

    #[test]
    fn new_names_keep_the_folder_and_say_the_file() {
        let id = Uuid::from_u128(7);
        let unique = |raw: &str| AssetName::unique(raw, id).map(|name| name.to_string());
        assert_eq!(unique("a.txt"), Some(format!("{id}-a.txt")));
        assert_eq!(unique("x/../y/a.txt"), Some(format!("x/y/{id}-a.txt")));
        assert_eq!(unique("x/"), None);
        let longest = "é".repeat(MAX_FILE_NAME_BYTES / 2);
        assert_eq!(longest.len(), 218);
        assert_eq!(unique(&longest), Some(format!("{id}-{longest}")));
        assert_eq!(unique(&format!("x/{longest}.")), None);
        assert_eq!(unique(""), None);
    }

    proptest! {
        /// Whatever is sent, the name is a valid path below a folder, and stays the same when it is
        /// cleaned again.
        #[test]
        fn no_name_leads_out_of_its_folder(raw in "[a./+\\\\%é\0 ]{0,24}|.{0,40}") {
            let id = Uuid::from_u128(1);
            for name in [AssetName::clean(&raw), AssetName::unique(&raw, id)].into_iter().flatten() {
                let text = name.as_str();
                prop_assert!(!text.starts_with(['/', '.']));
                prop_assert!(!text.contains("..") && !text.contains('+'));
                prop_assert!(text.split('/').all(|part| !matches!(part, "" | "." | "..")));
                prop_assert_eq!(AssetName::clean(text), Some(name.clone()));
                let path = std::path::Path::new("/store").join(text);
                let is_plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.components().skip(1).all(is_plain));
            }
        }
    }

    #[test]
    fn files_are_found_and_changed_at_any_depth() {
        let mut json = json!({
            "list": [{"$type": "asset", "$name": "a", "$url": "old"}, 1],
            "no": {"$type": "date", "$date": "2017-01-01T00:00:00Z"},
        });
        let mut names = Vec::new();
        see_assets(&json, &mut |name| names.push(name.to_owned()));
        assert_eq!(names, ["a"]);
        edit_assets(&mut json, &mut |asset| {
            asset.content_type = Some("text/plain".into());
            asset.url = Some("new".into());
        });
        let expected = json!({
            "$type": "asset", "$name": "a", "$content_type": "text/plain", "$url": "new",
        });
        assert_eq!(json["list"][0], expected);
        assert_eq!(json["no"]["$date"], "2017-01-01T00:00:00Z");
    }
}
