//! The load driver: how fast the whole server is, next to the best that the machine can do.
//!
//! Machines differ and are noisy, so every rate is measured next to that of a *bare* server: an
//! actix-web that appends the request body to a preallocated file with group `fdatasync` (or
//! answers from memory). The two take turns of about a second: ours, bare, ours, bare. Their ratio
//! is compared. Server and client share the machine, so the client (`http`, `websocket`) does as
//! little as it can.
//!
//! ```text
//! cargo bench --bench load                              every row, some minutes
//! cargo bench --bench load -- --quick --only create     a first look
//! cargo bench --bench load -- --flush-us 200 --only create   the same on a slower disk
//! cargo bench --bench load -- --only postgres           the record store in PostgreSQL and a file
//! cargo bench --bench load -- --markdown table.md       tables for the README and benches/README.md
//! cargo test --bench load                               no timing: does it run, is every answer a success
//! ```
//!
//! Exits with 1 if a request failed. A missed aim is shown, but has no other effect: time is never
//! a reason for a test to fail.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the console; what goes wrong must end the run"
)]

mod bare;
mod compare;
mod drive;
mod http;
mod options;
mod plugin;
mod postgres;
mod process;
mod report;
mod request;
mod rig;
mod rows;
mod server;
mod slow;
mod stats;
mod websocket;
mod zmq;

use std::process::ExitCode;

use clap::Parser;

use crate::options::{Mode, Options};
use crate::report::Report;
use crate::rig::Rig;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == plugin::EXEC_ARG) {
        plugin::run_once(&args).expect("an answer");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    if options.http_plugin {
        plugin::serve_http().expect("the plugin serves");
        return ExitCode::SUCCESS;
    }
    if let Some(address) = &options.zmq_plugin {
        // The server disconnects when it is done.
        zmq::serve(address).ok();
        return ExitCode::SUCCESS;
    }
    if let Some(file) = &options.bare {
        bare::serve(file, options.workers).expect("the bare server runs");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if let Some(endpoint) = &options.worker {
        runtime.block_on(plugin::work(endpoint, server::MASTER_KEY));
        return ExitCode::SUCCESS;
    }
    let report = runtime.block_on(run(&options));
    finish(&options, &report)
}

async fn run(options: &Options) -> Report {
    let rig = Rig::new(options);
    let mut report = Report::new(options.mode());
    rows::run_all(&rig, &mut report).await;
    report
}

fn finish(options: &Options, report: &Report) -> ExitCode {
    if let Some(path) = &options.markdown {
        std::fs::write(path, report.to_markdown()).expect("the table can be written");
    }
    if report.failures().is_empty() {
        if options.mode() == Mode::Smoke {
            println!("load: every request was answered with success");
        }
        return ExitCode::SUCCESS;
    }
    for failure in report.failures() {
        eprintln!("load: failed: {failure}");
    }
    ExitCode::FAILURE
}
