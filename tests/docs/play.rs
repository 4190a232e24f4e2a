//! Plays examples, and compares the answers with what the page promises.
//!
//! Words such as `ada-id` and `ada-token` stand for values that the server gives. The first answer
//! that contains one shows its value, which replaces it in requests. Any time matches any other.

use std::collections::BTreeMap;

use regex::{Captures, Regex};
use serde_json::Value as Json;

use super::page::Example;
use crate::support::client::{Answer, send};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

/// The member of an answer on a page that stands for further ones.
const MORE: &str = "…";

pub struct Player<'a> {
    server: &'a TestServer,
    /// The values of the words.
    known: BTreeMap<String, String>,
    words: Regex,
    date: Regex,
}

impl<'a> Player<'a> {
    pub fn new(server: &'a TestServer) -> Self {
        let known = [("client-key", API_KEY), ("master-key", MASTER_KEY)];
        let known = known.map(|(word, value)| (word.to_owned(), value.to_owned()));
        Self {
            server,
            known: known.into(),
            words: Regex::new(r"\b[a-z]+[0-9]*-(?:id|key|token|name|url)\b").unwrap(),
            date: Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$").unwrap(),
        }
    }

    /// Replaces the known words in a string.
    pub fn filled(&self, text: &str) -> String {
        let value = |word: &Captures<'_>| {
            let known = self.known.get(&word[0]);
            known.map_or_else(|| word[0].to_owned(), Clone::clone)
        };
        self.words.replace_all(text, value).into_owned()
    }

    /// Sends an example's request.
    pub fn send(&self, example: &Example) -> Answer {
        let headers = example.headers.iter();
        let mut headers: Vec<(String, String)> = headers
            .map(|(name, value)| (name.clone(), self.filled(value)))
            .collect();
        let is_typed = headers.iter().any(|(name, _)| name == "Content-Type");
        if !is_typed {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        let url = format!("{}{}", self.server.base_url, self.filled(&example.path));
        let body = self.filled(&example.body);
        let body = (!body.is_empty()).then(|| body.into_bytes());
        send(&example.method, &url, &headers, body).unwrap()
    }

    /// Plays an example; returns how the answer differs.
    pub fn play(&mut self, example: &Example) -> Vec<String> {
        let answer = self.send(example);
        let mut differences = Vec::new();
        if answer.status != example.status {
            differences.push(format!("status {}", answer.status));
        }
        let expected: Json = match serde_json::from_str(&example.answer) {
            Ok(expected) => expected,
            Err(error) => return vec![format!("the answer on the page is no JSON: {error}")],
        };
        differences.extend(self.differences(&expected, &answer.json()));
        differences
    }

    /// Compares an answer with the page; returns the differences.
    pub fn differences(&mut self, expected: &Json, found: &Json) -> Vec<String> {
        let mut differences = Vec::new();
        self.compare(expected, found, "answer", &mut differences);
        differences
    }

    fn compare(&mut self, expected: &Json, found: &Json, at: &str, out: &mut Vec<String>) {
        match (expected, found) {
            (Json::Object(expected), Json::Object(found)) => {
                for (name, expected) in expected.iter().filter(|(name, _)| *name != MORE) {
                    let inner = found.get(&self.filled(name));
                    let inner = inner.unwrap_or(&Json::Null);
                    self.compare(expected, inner, &format!("{at}.{name}"), out);
                }
                let names: Vec<String> = expected.keys().map(|name| self.filled(name)).collect();
                // `…` stands for any further members.
                let is_whole = !expected.contains_key(MORE);
                for name in found
                    .keys()
                    .filter(|name| is_whole && !names.contains(name))
                {
                    out.push(format!("{at}.{name} is not on the page"));
                }
            }
            (Json::Array(expected), Json::Array(found)) if expected.len() == found.len() => {
                for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                    self.compare(expected, found, &format!("{at}[{index}]"), out);
                }
            }
            (Json::String(expected), Json::String(found)) if self.fits(expected, found) => {}
            (expected, found) if expected == found => {}
            _ => out.push(format!("{at}: the page has {expected}, the answer {found}")),
        }
    }

    /// Returns whether a string matches the page; learns the words in it.
    fn fits(&mut self, expected: &str, found: &str) -> bool {
        if self.date.is_match(expected) {
            return self.date.is_match(found);
        }
        let words: Vec<String> = self
            .words
            .find_iter(expected)
            .map(|it| it.as_str().into())
            .collect();
        let mut pattern = regex::escape(expected);
        for word in &words {
            let value = match self.known.get(word) {
                Some(value) if !is_fresh(word) => regex::escape(value),
                _ if word.ends_with("-url") => r"(https?://\S+)".to_owned(),
                _ => r"([^\s/]{8,})".to_owned(),
            };
            pattern = pattern.replacen(&regex::escape(word), &value, 1);
        }
        let Some(captures) = Regex::new(&format!("^{pattern}$")).unwrap().captures(found) else {
            return false;
        };
        let is_open = |word: &String| is_fresh(word) || !self.known.contains_key(word);
        let open: Vec<String> = words.into_iter().filter(is_open).collect();
        for (word, value) in open.iter().zip(captures.iter().skip(1).flatten()) {
            self.known.insert(word.clone(), value.as_str().to_owned());
        }
        true
    }
}

/// Each login gives a new token, and each answer a new address.
fn is_fresh(word: &str) -> bool {
    word.ends_with("-token") || word.ends_with("-url")
}
