//! Imports from other servers.

mod again;
mod buckets;
mod compare;
mod dry_run;
mod exports;
mod numbers;
mod records;
mod refused;
mod skygear;
mod tables;
mod users;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

use crate::support::postgres::{Database, shared};
use crate::support::program::repository;
use crate::support::server::TestServer;

/// A data folder without a server, and a database to import.
struct Move {
    folder: tempfile::TempDir,
    database: Database<'static>,
}

impl Move {
    /// With the sample database, changed by this SQL.
    fn with(sql: &str) -> Self {
        let database = shared().database(&["citext", "uuid-ossp", "postgis"]);
        database.restore(&unpacked("tests/samples/v1_database/app_myapp.sql.gz"));
        if !sql.is_empty() {
            database.sql(&format!("SET search_path TO app_myapp, public; {sql}"));
        }
        Self {
            folder: tempfile::tempdir().unwrap(),
            database,
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.env_clear().current_dir(self.folder.path());
        command
            .env("DATA_DIR", self.data())
            .env("APP_NAME", "myapp");
        command.env("SKYGEAR_DATABASE_URL", self.database.url());
        command.args(["import", "skygear"]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Imports, and returns the table of outcomes.
    fn import(&self, arguments: &[&str]) -> Table {
        Table::of_done(&self.command(arguments).output().unwrap())
    }

    /// Like [`Move::import`], but also returns the rows that were not imported.
    fn import_and_report(&self, arguments: &[&str]) -> (Table, Vec<Json>) {
        let path = self.folder.path().join("report.jsonl");
        let report = path.to_string_lossy().into_owned();
        // The report of an earlier import is not overwritten.
        let _ = std::fs::remove_file(&path);
        let table = self.import(&[arguments, &["--report", &report]].concat());
        let lines = std::fs::read_to_string(path).unwrap();
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        (table, lines.collect())
    }

    fn serve(&self, settings: &[(&str, &str)]) -> TestServer {
        let data = self.data().to_string_lossy().into_owned();
        let own = [("DATA_DIR", data.as_str())];
        TestServer::with(&[&own, settings].concat())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The table that an import prints at its end.
struct Table(String);

impl Table {
    /// The table of an import that is done. Its exit code shows scripts that something was refused.
    fn of_done(done: &Output) -> Self {
        let table = Self(String::from_utf8_lossy(&done.stdout).into_owned());
        let ending = match table.of("total")[5] {
            0 => (true, String::new()),
            number => (false, format!("{number} refused")),
        };
        let told = said(done);
        assert_eq!(done.status.success(), ending.0, "{told}");
        assert!(told.contains(&ending.1), "{told}");
        table
    }

    /// Returns how many rows of a table were read, added, updated, present, kept and refused.
    fn of(&self, name: &str) -> [u64; 6] {
        let line = self.0.lines().find(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| {
                rest.starts_with(' ') && rest.trim_start().starts_with(|c: char| c.is_ascii_digit())
            })
        });
        let line = line.unwrap_or_else(|| panic!("no {name} in:\n{}", self.0));
        let numbers = line[name.len()..].split_whitespace();
        let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }
}

fn unpacked(path: &str) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-dc")
        .arg(repository(path))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut bytes = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert!(child.wait().unwrap().success());
    bytes
}

/// Returns the bytes of the journal, which an import that adds nothing leaves unchanged.
fn journal(data: &Path) -> Vec<u8> {
    let mut paths: Vec<_> = std::fs::read_dir(data.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "journal"))
        .collect();
    paths.sort();
    paths
        .iter()
        .flat_map(|path| std::fs::read(path).unwrap())
        .collect()
}
