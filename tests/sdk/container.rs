//! The Python package `skygear` 1.7.1 as a client; the checks are in `tests/python/sdk`.

use std::process::Stdio;

use super::report::Report;
use super::{repository, set_up};
use crate::support::program::bounded;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

const ASSET_STORE_SECRET: &str = "asset-secret-of-the-tests";

#[test]
fn the_container_of_the_published_python_sdk_works() {
    let server = TestServer::with(&[("ASSET_STORE_SECRET", ASSET_STORE_SECRET)]);
    let suite = bounded(set_up(".venv/bin/python"))
        .arg(repository("tests/python/sdk/run.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SKYGEAR_ENDPOINT", &server.base_url)
        .env("API_KEY", API_KEY)
        .env("MASTER_KEY", MASTER_KEY)
        .env("ASSET_STORE_SECRET", ASSET_STORE_SECRET)
        .env(
            "ASSET_STORE_URL_PREFIX",
            format!("{}/files", server.base_url),
        )
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let mut report = Report::default();
    for line in String::from_utf8_lossy(&suite.stdout).lines() {
        report.take(line);
    }
    report.sum_up("python sdk");
}
