//! The bundle that npm `skygear` 1.7.2 publishes for browsers, in a real one, on a page of another
//! origin than the server's.

mod site;

use std::process::Stdio;

use self::site::Site;
use super::report::Report;
use crate::support::program::bounded;
use crate::support::server::{API_KEY, TestServer};

/// Flags that keep the browser away from the network and the rest of the machine.
const QUIET: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
];

#[test]
fn the_published_bundle_works_in_a_browser() {
    let server = TestServer::start();
    let site = Site::start();
    let profile = tempfile::tempdir().unwrap();
    let page = format!("{}/#{}/%20{API_KEY}", site.base_url, server.base_url);
    // It prints the page once that is loaded, which is when its checks are done.
    let browser = bounded("chromium")
        .args(QUIET)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--dump-dom", &page])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&browser.stdout);
    let mut report = Report::default();
    for line in text_of_report(&dom).lines() {
        report.take(line);
    }
    if browser.status.success() {
        return report.sum_up("browser");
    }
    panic!("{}\n{dom}", String::from_utf8_lossy(&browser.stderr));
}

/// Returns the text of the element that the page writes to.
fn text_of_report(dom: &str) -> String {
    let (_, from_start) = dom.split_once("<pre id=\"report\">").unwrap_or_default();
    let (text, _) = from_start.split_once("</pre>").unwrap_or_default();
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}
