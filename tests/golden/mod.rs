//! Recorded requests and the answers that v1 really gave, compared with this server's.
//!
//! Each file here is a list of scenarios. `differences.json` names the scenarios that this server
//! answers differently on purpose, why, and what it answers instead. A scenario that is listed but
//! passes as recorded is a failure too.

mod line;
pub mod matching;
pub mod runner;

use std::collections::BTreeMap;

use crate::support::postgres::{Database, shared};
use crate::support::server::TestServer;
use runner::Scenario;

/// Where the records are.
#[derive(Clone, Copy)]
enum Place {
    File,
    Postgres,
}

/// A server and the database that it may use.
struct Started {
    server: TestServer,
    _database: Option<Database<'static>>,
}

/// Starts a new server with a profile's settings.
fn start(profile: &str, place: Place) -> Started {
    let settings: &[(&str, &str)] = match profile {
        "default" | "nondev" => &[],
        "policy" => &[
            ("USER_AUDIT_ENABLED", "YES"),
            ("USER_AUDIT_PW_MIN_LENGTH", "6"),
            ("USER_AUDIT_PW_UPPERCASE_REQUIRED", "YES"),
            ("USER_AUDIT_PW_LOWERCASE_REQUIRED", "YES"),
            ("USER_AUDIT_PW_DIGIT_REQUIRED", "YES"),
            ("USER_AUDIT_PW_SYMBOL_REQUIRED", "YES"),
            ("USER_AUDIT_PW_EXCLUDED_KEYWORDS", "admin,secret"),
            ("USER_AUDIT_PW_EXCLUDED_FIELDS", "username"),
            ("USER_AUDIT_PW_HISTORY_SIZE", "2"),
        ],
        "verify" => &[("VERIFY_REQUIRED", "YES")],
        "variant" => &[
            ("AUTH_RECORD_KEYS", "username,(email,phone)"),
            ("ASSET_STORE_PUBLIC", "YES"),
            ("TOKEN_STORE", "fs"),
        ],
        other => panic!("no profile {other}"),
    };
    let custom_token = ("CUSTOM_TOKEN_SECRET", "ssosecret");
    let custom_token = (profile != "variant").then_some(custom_token);
    let settings: Vec<_> = settings.iter().copied().chain(custom_token).collect();
    let database = match place {
        Place::File => None,
        Place::Postgres => Some(shared().database(&["postgis"])),
    };
    let url = database.as_ref().map(Database::url);
    let url = url.iter().map(|url| ("DATABASE_URL", url.as_str()));
    let settings: Vec<_> = settings.into_iter().chain(url).collect();
    let mut server = TestServer::with(&settings);
    if profile == "nondev" {
        // Started once in development mode before, which sets up the types.
        server.restart_with(&[("DEV_MODE", "NO")]);
    }
    Started {
        server,
        _database: database,
    }
}

/// Runs a file's scenarios one after the other, against a new server per profile.
fn replay(file: &str, text: &str, place: Place) {
    let scenarios: Vec<Scenario> = serde_json::from_str(text).unwrap();
    let differences: Vec<runner::Difference> =
        serde_json::from_str(include_str!("differences.json")).unwrap();
    let mut servers: BTreeMap<String, Started> = BTreeMap::new();
    let mut failures = Vec::new();
    let (mut passed, total) = (0, scenarios.len());
    for scenario in scenarios {
        let name = scenario.name.clone();
        let difference = differences
            .iter()
            .find(|difference| difference.scenario == name);
        let profile = scenario.profile.clone();
        let server = servers
            .entry(profile)
            .or_insert_with_key(|name| start(name, place));
        let outcome = runner::run(&scenario, difference, &server.server);
        match outcome {
            Ok(()) => passed += 1,
            Err(why) => failures.push(format!("{name}: {why}")),
        }
    }
    println!("{file}: {passed} of {total} scenarios passed");
    assert!(
        failures.is_empty(),
        "{file}: {passed} of {total}\n{}",
        failures.join("\n")
    );
}

macro_rules! golden {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let text = include_str!(concat!(stringify!($name), ".json"));
            replay(stringify!($name), text, Place::File);
        })*

        /// The same scenarios with the records in PostgreSQL.
        mod postgres {
            use super::*;

            $(#[test]
            fn $name() {
                let text = include_str!(concat!(stringify!($name), ".json"));
                replay(stringify!($name), text, Place::Postgres);
            })*
        }
    };
}

golden! {
    asset core record_save record_query record_fetch_delete database acl pubsub relation role
    sso_custom_token schema field_acl nondev auth policy verify variant device subscription push
}

/// Every scenario that is answered differently has its row in the documentation, and no other has.
#[test]
fn every_difference_is_documented() {
    let differences: Vec<runner::Difference> =
        serde_json::from_str(include_str!("differences.json")).unwrap();
    let page = include_str!("../../docs/COMPATIBILITY.md");
    let rows = page.lines().filter_map(|line| line.split_once("(`"));
    let mut documented: Vec<&str> = rows
        .filter_map(|(_, rest)| rest.split_once("`)"))
        .flat_map(|(names, _)| names.split("`, `"))
        .collect();
    let mut listed: Vec<&str> = differences.iter().map(|it| it.scenario.as_str()).collect();
    documented.sort_unstable();
    listed.sort_unstable();
    assert_eq!(documented, listed);
}
