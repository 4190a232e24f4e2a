//! Logging to standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use crate::config::Log;

/// Starts logging. Does nothing if logging has already been started.
pub fn start(log: &Log) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(log))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let _ = if log.is_json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.compact().try_init()
    };
}

fn filter(log: &Log) -> EnvFilter {
    /// It logs only about its own job lists, which tasks do not depend on.
    const CHATTY: &str = "tokio_cron_scheduler";
    let mut filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    if !log.level.contains(CHATTY)
        && let Ok(silence) = format!("{CHATTY}=off").parse()
    {
        filter = filter.add_directive(silence);
    }
    let targets = log.loggers.iter().flat_map(|(logger, level)| {
        let directive = move |target: &&str| format!("{target}={level}").parse::<Directive>().ok();
        logger.targets.iter().filter_map(directive)
    });
    targets.fold(filter, EnvFilter::add_directive)
}
