//! The documentation, held against the server.

pub mod page;
pub mod play;

use std::collections::BTreeSet;

use crate::support::server::TestServer;
use page::Example;
use play::Player;

const API: &str = include_str!("../../docs/API.md");

/// What the examples need.
pub const SETTINGS: &[(&str, &str)] = &[("CUSTOM_TOKEN_SECRET", "secret-of-the-backend")];

/// Actions whose sections are still to be written.
const NOT_YET: &[&str] = &[
    "asset:put",
    "auth:disable:set",
    "auth:import",
    "auth:password",
    "auth:reset_password",
];

/// The examples of docs/API.md, in order.
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
    let is_due = |action: &&skytrail::action::Action| !NOT_YET.contains(&action.name);
    let actions: BTreeSet<String> = skytrail::action::ACTIONS
        .iter()
        .filter(is_due)
        .map(name)
        .collect();
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

/// Every setting that a page names exists.
#[test]
fn settings_on_the_pages_exist() {
    use regex::Regex;
    use skytrail::config::{Config, Sources};

    let (_, settings) = Config::read(&Sources::default()).unwrap();
    let known: BTreeSet<String> = settings.into_iter().map(|setting| setting.name).collect();
    let limit = Regex::new(r"`((?:MAX|HTTP|METRICS|LOG)_[A-Z_]+[A-Z])`").unwrap();
    let operations = include_str!("../../docs/OPERATIONS.md");
    let mut checked = 0;
    for captures in limit
        .captures_iter(API)
        .chain(limit.captures_iter(operations))
    {
        let name = &captures[1];
        let is_logger = name.starts_with("LOG_LEVEL_");
        assert!(is_logger || known.contains(name), "{name} is no setting");
        checked += 1;
    }
    assert!(checked > 10);
}
