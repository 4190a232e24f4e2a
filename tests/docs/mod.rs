//! The documentation, compared with the server.

mod alarms;
mod history;
mod live;
pub mod page;
pub mod play;
mod plugins;
mod rights;

use std::collections::BTreeSet;

use serde_json::Value as Json;
use skytrail_actors::plugin::TransportKind;
use skytrail_actors::plugin::registration::Registration;

use crate::support::program::repository;
use crate::support::server::TestServer;
use page::Example;
use play::Player;

const API: &str = include_str!("../../docs/API.md");

/// The settings that the examples need.
pub const SETTINGS: &[(&str, &str)] = &[
    ("CUSTOM_TOKEN_SECRET", "secret-of-the-backend"),
    // A push service that no example uses.
    ("WEBPUSH_ENABLE", "YES"),
    ("WEBPUSH_SUBJECT", "mailto:ops@example.com"),
    ("WEBPUSH_HOSTS", "127.0.0.1:1"),
];

/// Returns the examples of docs/API.md, in order.
pub fn examples() -> Vec<Example> {
    page::examples(API)
}

#[test]
fn every_example_is_answered_as_the_page_says() {
    let server = TestServer::with(SETTINGS);
    let mut player = Player::new(&server);
    let mut failures = Vec::new();
    for example in examples() {
        for difference in player.play(&example) {
            let Example { line, section, .. } = &example;
            failures.push(format!("line {line}, {section}: {difference}"));
        }
    }
    assert!(failures.is_empty(), "docs/API.md:\n{}", failures.join("\n"));
}

#[test]
fn every_action_has_its_section_with_an_example_and_no_other_has() {
    let name = |action: &skytrail::action::Action| match action.name {
        "" => "home".to_owned(),
        name => name.to_owned(),
    };
    let actions: BTreeSet<String> = skytrail::action::ACTIONS.iter().map(name).collect();
    let sections: BTreeSet<String> = page::sections(API).into_iter().collect();
    assert_eq!(sections, actions);
    let shown: BTreeSet<String> = examples().into_iter().map(|it| it.section).collect();
    let without: Vec<_> = actions.difference(&shown).collect();
    assert!(without.is_empty(), "without an example: {without:?}");
}

/// Codes, names and statuses on the page are those of the server.
#[test]
fn the_table_of_codes_is_the_servers() {
    use skytrail_schema::code::Code;

    let mut rows = 0;
    for line in API.lines().filter(|line| line.starts_with("| 1")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Ok(number) = cells[1].parse::<i64>() else {
            continue;
        };
        let code = Code::from_number(number);
        assert_eq!(code.name(), cells[2], "{line}");
        let status = code.status().to_string();
        assert!(cells[3].starts_with(&status), "{line}: {status}");
        rows += 1;
    }
    assert!(rows > 20);
}

/// Programs that read the log find each kind of event on its page.
#[test]
fn every_kind_of_event_is_described() {
    use skytrail_schema::event::EventKind;

    let page = include_str!("../../docs/LOG.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let first_cells = rows.filter_map(|row| row.split('|').nth(1));
    let named: BTreeSet<&str> = first_cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| name.contains('.'))
        .collect();
    let kinds: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(named, kinds);
}

/// Every setting that a page names exists.
#[test]
fn settings_on_the_pages_exist() {
    use regex::Regex;
    use skytrail::config::{Config, Sources};

    let (_, settings) = Config::read(&Sources::default()).unwrap();
    let known: BTreeSet<String> = settings.into_iter().map(|setting| setting.name).collect();
    let limit =
        Regex::new(r"`((?:MAX|HTTP|METRICS|LOG|APNS|FCM|PUSH|WEBPUSH)_[A-Z_]+[A-Z])`").unwrap();
    let operations = include_str!("../../docs/OPERATIONS.md");
    let mut named: Vec<&str> = Vec::new();
    for page in [API, operations] {
        named.extend(
            limit
                .captures_iter(page)
                .map(|captures| captures.get(1).unwrap().as_str()),
        );
    }
    // Settings that carry over: the first cells of the table's rows.
    let migrating = include_str!("../../docs/MIGRATING.md");
    let table = migrating.split("| Setting | Note |").nth(1).unwrap();
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    for row in rows {
        let cell = row.split('|').nth(1).unwrap();
        named.extend(cell.split('`').skip(1).step_by(2));
    }
    assert!(named.len() > 30);
    for name in named {
        let is_logger = name.starts_with("LOG_LEVEL_");
        assert!(is_logger || known.contains(name), "{name} is no setting");
    }
}

/// The paths on the pages for contributors lead somewhere.
#[test]
fn paths_on_the_pages_exist() {
    const PAGES: [&str; 2] = ["docs/ARCHITECTURE.md", "docs/CONTRIBUTING.md"];
    // Streams of the log.
    const NO_PATHS: [&str; 2] = ["record/note/1", "type/note"];
    let word = regex::Regex::new("`([a-z0-9][A-Za-z0-9_./-]*)`").unwrap();
    let is_path = |word: &&str| {
        let endings = [".rs", ".js", ".py"];
        let is_file = endings.iter().any(|it| word.ends_with(it));
        (word.contains('/') || is_file) && !NO_PATHS.contains(word)
    };
    for page in PAGES {
        let text = std::fs::read_to_string(repository(page)).unwrap();
        let words = word.captures_iter(&text).map(|it| it.get(1).unwrap());
        let paths: Vec<&str> = words.map(|it| it.as_str()).filter(is_path).collect();
        assert!(paths.len() > 10, "{page}: {paths:?}");
        let is_lost = |path: &&&str| !repository(path).exists();
        let lost: Vec<_> = paths.iter().filter(is_lost).collect();
        assert!(lost.is_empty(), "{page}: {lost:?}");
    }
}

/// The registration and the messages in docs/PLUGIN-PROTOCOL.md can be parsed.
#[test]
fn the_examples_of_the_plugin_protocol_are_readable() {
    const PAGE: &str = include_str!("../../docs/PLUGIN-PROTOCOL.md");
    let blocks = PAGE.split("```json\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let mut registrations = 0;
    for block in blocks {
        for value in serde_json::Deserializer::from_str(block).into_iter::<Json>() {
            let value = value.unwrap_or_else(|error| panic!("{error}: {block}"));
            if value.get("type").is_none() {
                let registration = Registration::parse(&value, TransportKind::WebSocket).unwrap();
                let counts = registration.counts();
                let counts = counts.as_object().unwrap();
                assert!(counts.values().all(|number| *number != 0), "{counts:?}");
                registrations += 1;
            }
        }
    }
    assert_eq!(registrations, 1);
}

/// The table of failures in docs/PLUGIN-PROTOCOL.md names existing tests.
#[test]
fn every_failure_of_the_plugin_protocol_is_a_test() {
    const PAGE: &str = include_str!("../../docs/PLUGIN-PROTOCOL.md");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let (_, table) = PAGE.split_once("## What goes wrong").unwrap();
    let mut rows = 0;
    for line in table.lines().filter(|line| line.starts_with("| ")).skip(2) {
        let cell = line.trim_end_matches('|').rsplit('|').next().unwrap();
        let words: Vec<&str> = cell.split('`').collect();
        let [_, file, _, name, _] = words[..] else {
            panic!("names no file and test: {line}");
        };
        let path = if file.contains("sdks/") {
            root.join(file)
        } else {
            root.join("tests/plugin").join(file)
        };
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let is_there =
            text.contains(&format!("fn {name}()")) || text.contains(&format!("def test_{name}("));
        assert!(is_there, "{file} has no test {name}");
        rows += 1;
    }
    assert!(rows > 30);
}
