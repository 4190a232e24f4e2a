//! Plays a scenario: HTTP and WebSocket steps, captures, waits.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::line::Line;
use super::matching::{Variables, compare, substitute, substitute_text};
use crate::support::client::{Answer, send};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

#[derive(Clone, Debug, Deserialize)]
pub struct Scenario {
    pub name: String,
    /// Recorded for reading, not for playing.
    #[serde(default)]
    pub transcript_only: bool,
    /// The server settings that it needs.
    #[serde(default = "default_profile")]
    pub profile: String,
    steps: Vec<Json>,
}

fn default_profile() -> String {
    "default".to_owned()
}

/// A scenario in which this server differs on purpose.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    pub scenario: String,
    /// For plugins: the only transport over which it differs.
    #[serde(default)]
    pub over: Option<String>,
    /// Why; the documentation has a row with the same reason.
    #[serde(rename = "why")]
    _why: String,
    /// What this server answers instead, by step number from 1, and what is captured then.
    steps: BTreeMap<usize, Json>,
}

/// Plays a scenario; an error names the first step that differs, and how. A step that is listed as
/// different must not pass as recorded, and must pass as listed.
pub fn run(
    scenario: &Scenario,
    difference: Option<&Difference>,
    server: &TestServer,
) -> Result<(), String> {
    run_witnessed(scenario, difference, server, &mut ())
}

/// Another participant in a scenario, next to the client.
pub trait Witness {
    /// Hears of a step and of how this server differs; returns whether the step is played at all.
    fn before(&mut self, step: &Json, ours: Option<&Json>) -> bool;

    /// Returns what was wrong with the step from its side.
    fn after(&mut self, variables: &Variables) -> Result<(), String>;
}

impl Witness for () {
    fn before(&mut self, _: &Json, _: Option<&Json>) -> bool {
        true
    }

    fn after(&mut self, _: &Variables) -> Result<(), String> {
        Ok(())
    }
}

/// Like [`run`], with a witness of every step.
pub fn run_witnessed(
    scenario: &Scenario,
    difference: Option<&Difference>,
    server: &TestServer,
    witness: &mut dyn Witness,
) -> Result<(), String> {
    let mut play = Play {
        server,
        variables: Variables::from([
            ("base_url".to_owned(), json!(server.base_url)),
            ("api_key".to_owned(), json!(API_KEY)),
            ("master_key".to_owned(), json!(MASTER_KEY)),
        ]),
        lines: BTreeMap::new(),
        unsettled: None,
    };
    for (number, step) in scenario.steps.iter().enumerate() {
        let ours = difference.and_then(|difference| difference.steps.get(&(number + 1)));
        if !witness.before(step, ours) {
            continue;
        }
        let captured = ours.and_then(|ours| ours.get("capture"));
        let captured = captured.unwrap_or(&step["capture"]);
        let ours = ours.filter(|ours| ours.get("status").is_some() || ours.get("body").is_some());
        play.step(step, ours, captured)
            .and_then(|()| witness.after(&play.variables))
            .map_err(|why| format!("step {}: {why}", number + 1))?;
    }
    Ok(())
}

struct Play<'a> {
    server: &'a TestServer,
    variables: Variables,
    lines: BTreeMap<String, Line>,
    /// The line that was last used to send, unless the hub has certainly taken what was sent.
    unsettled: Option<String>,
}

impl Play<'_> {
    fn step(&mut self, step: &Json, ours: Option<&Json>, captured: &Json) -> Result<(), String> {
        if let Some(pause) = step["sleep_ms"].as_u64() {
            std::thread::park_timeout(Duration::from_millis(pause));
            return Ok(());
        }
        match step["ws"].as_str() {
            Some(kind) => self.socket_step(kind, step),
            None => {
                self.settle(None)?;
                self.http_step(step, ours, captured)
            }
        }
    }

    fn http_step(
        &mut self,
        step: &Json,
        ours: Option<&Json>,
        captured: &Json,
    ) -> Result<(), String> {
        let request = substitute(&step["request"], &self.variables);
        let answer = self.send(&request)?;
        let body = answer.json();
        self.capture(captured, &body)?;
        let differences = match ours {
            None => self.differences(&step["response"], &answer, &body),
            Some(_)
                if self
                    .differences(&step["response"], &answer, &body)
                    .is_empty() =>
            {
                vec!["is listed as different, but passes as recorded".to_owned()]
            }
            Some(ours) => self.differences(ours, &answer, &body),
        };
        if differences.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{}\n    {}\n    answer: {body}",
            request["path"],
            differences.join("\n    ")
        ))
    }

    fn differences(&self, expected: &Json, answer: &Answer, body: &Json) -> Vec<String> {
        let mut differences = Vec::new();
        if let Some(status) = expected["status"].as_u64()
            && status != u64::from(answer.status)
        {
            differences.push(format!("status: wanted {status}, found {}", answer.status));
        }
        let headers = expected["headers"].as_object();
        for (name, expected) in headers.into_iter().flatten() {
            let fields = answer.headers.iter();
            let values = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
            let values: Vec<&str> = values.map(|(_, value)| value.as_str()).collect();
            let found = match values.as_slice() {
                [] => Json::Null,
                values => values.join(", ").into(),
            };
            let expected = if expected.get("$absent").is_some() {
                &Json::Null
            } else {
                expected
            };
            compare(expected, &found, name, &self.variables, &mut differences);
        }
        if let Some(expected) = expected.get("body") {
            compare(expected, body, "body", &self.variables, &mut differences);
        }
        if let Some(expected) = expected.get("body_text") {
            let text = String::from_utf8_lossy(&answer.bytes).into_owned();
            compare(
                expected,
                &text.into(),
                "body_text",
                &self.variables,
                &mut differences,
            );
        }
        if let Some(expected) = expected["body_base64"].as_str()
            && STANDARD.decode(expected).unwrap() != answer.bytes
        {
            differences.push("body: other bytes".to_owned());
        }
        differences
    }

    fn send(&self, request: &Json) -> Result<Answer, String> {
        let method = request["method"].as_str().unwrap_or("POST");
        let path = request["path"].as_str().unwrap_or("/");
        let mut headers = header_list(&request["headers"]);
        // As in the recording client's requests; plugins see it.
        headers.push(("Accept-Encoding".to_owned(), "identity".to_owned()));
        let body = match request {
            request if !request["body_text"].is_null() => {
                Some(request["body_text"].as_str().unwrap().as_bytes().to_vec())
            }
            request if !request["body_base64"].is_null() => Some(
                STANDARD
                    .decode(request["body_base64"].as_str().unwrap())
                    .unwrap(),
            ),
            request if !request["multipart"].is_null() => {
                let (content_type, body) = multipart(&request["multipart"]);
                headers.push(("Content-Type".to_owned(), content_type));
                Some(body)
            }
            request if !request["body"].is_null() => {
                let is_typed = headers
                    .iter()
                    .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
                if !is_typed {
                    headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
                }
                Some(serde_json::to_vec(&request["body"]).unwrap())
            }
            _ => None,
        };
        send(
            method,
            &format!("{}{path}", self.server.base_url),
            &headers,
            body,
        )
    }

    fn capture(&mut self, captures: &Json, body: &Json) -> Result<(), String> {
        for (name, place) in captures.as_object().into_iter().flatten() {
            let path = place.as_str().or(place["path"].as_str()).unwrap();
            let pointer = format!("/{}", path.replace('.', "/"));
            let found = body.pointer(&pointer);
            let found = found.ok_or_else(|| format!("nothing at {path} to capture in {body}"))?;
            let value = match place["regex"].as_str() {
                None => found.clone(),
                Some(pattern) => {
                    let text = found.as_str().unwrap_or_default();
                    let captured = Regex::new(pattern).unwrap().captures(text);
                    let captured = captured.ok_or_else(|| format!("{pattern} not in {text}"))?;
                    captured[1].to_owned().into()
                }
            };
            self.variables.insert(name.clone(), value);
        }
        Ok(())
    }

    fn socket_step(&mut self, kind: &str, step: &Json) -> Result<(), String> {
        let name = step["conn"].as_str().unwrap_or("a").to_owned();
        if kind == "open" {
            return self.open(name, step);
        }
        if kind == "close" {
            self.settle(None)?;
            if let Some(line) = self.lines.remove(&name) {
                line.close();
            }
            return Ok(());
        }
        self.settle(Some(&name))?;
        let variables = self.variables.clone();
        let line = self.lines.get_mut(&name).ok_or("no such connection")?;
        let timeout = Duration::from_millis(step["within_ms"].as_u64().unwrap_or(20_000));
        match kind {
            "send" => {
                let text = match step.get("json") {
                    Some(json) => substitute(json, &variables).to_string(),
                    None => substitute_text(step["text"].as_str().unwrap(), &variables),
                };
                line.send(&text);
                self.unsettled = Some(name);
                Ok(())
            }
            "recv" => {
                let Incoming::Text(text) = line.receive(timeout) else {
                    return Err("no message came".to_owned());
                };
                self.check_message(step, text)
            }
            "recv_none" => {
                line.mark()?;
                match line.take_heard() {
                    None => Ok(()),
                    Some(text) => Err(format!("wanted silence, found {text}")),
                }
            }
            "closed" => match line.receive(timeout) {
                Incoming::Closed => Ok(()),
                other => Err(format!("wanted the end, found {other:?}")),
            },
            other => Err(format!("unknown step {other}")),
        }
    }

    /// Makes sure that the hub has taken everything sent over any line but `going_on`.
    fn settle(&mut self, going_on: Option<&str>) -> Result<(), String> {
        let name = self.unsettled.take_if(|name| Some(&**name) != going_on);
        match name.and_then(|name| self.lines.get_mut(&name)) {
            Some(line) if line.may_publish() => line.mark(),
            _ => Ok(()),
        }
    }

    fn open(&mut self, name: String, step: &Json) -> Result<(), String> {
        let path = substitute_text(step["path"].as_str().unwrap_or("/pubsub"), &self.variables);
        let headers = header_list(&substitute(&step["headers"], &self.variables));
        let (status, body) = match Socket::open(self.server.address(), &path, &headers) {
            Ok(socket) => {
                let line = Line::new(&name, socket, &path);
                self.lines.insert(name, line);
                (101, Json::Null)
            }
            Err((status, body)) => (status, serde_json::from_slice(&body).unwrap_or(Json::Null)),
        };
        let mut differences = Vec::new();
        let expected = step["status"].as_u64().unwrap_or(101);
        if expected != u64::from(status) {
            differences.push(format!("status: wanted {expected}, found {status}"));
        }
        if let Some(expected) = step.get("body") {
            compare(expected, &body, "body", &self.variables, &mut differences);
        }
        if differences.is_empty() {
            Ok(())
        } else {
            Err(differences.join("; "))
        }
    }

    fn check_message(&mut self, step: &Json, text: String) -> Result<(), String> {
        let mut differences = Vec::new();
        match step.get("json") {
            Some(expected) => {
                let found = serde_json::from_str(&text).unwrap_or(Json::Null);
                self.capture(&step["capture"], &found)?;
                compare(
                    expected,
                    &found,
                    "message",
                    &self.variables,
                    &mut differences,
                );
            }
            None => {
                let found = Json::String(text);
                compare(
                    &step["text"],
                    &found,
                    "message",
                    &self.variables,
                    &mut differences,
                );
            }
        }
        if differences.is_empty() {
            Ok(())
        } else {
            Err(differences.join("; "))
        }
    }
}

/// Encodes a form; also returns its content type.
fn multipart(parts: &Json) -> (String, Vec<u8>) {
    const BOUNDARY: &str = "----between-the-parts";
    let mut body = Vec::new();
    for part in parts.as_array().unwrap() {
        let name = part["name"].as_str().unwrap();
        let mut head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"");
        if let Some(filename) = part["filename"].as_str() {
            head.push_str(&format!("; filename=\"{filename}\""));
        }
        if let Some(content_type) = part["content_type"].as_str() {
            head.push_str(&format!("\r\nContent-Type: {content_type}"));
        }
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(b"\r\n\r\n");
        match part["base64"].as_str() {
            Some(text) => body.extend(STANDARD.decode(text).unwrap()),
            None => body.extend_from_slice(part["text"].as_str().unwrap().as_bytes()),
        }
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

fn header_list(headers: &Json) -> Vec<(String, String)> {
    let headers = headers.as_object().into_iter().flatten();
    headers
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}
