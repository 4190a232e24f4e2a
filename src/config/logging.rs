//! Settings for logging.

use tracing_subscriber::EnvFilter;

use super::source::Reader;

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `LOG_LEVEL`, default `info`; any filter of the form `info,skytrail_actors=debug` is
    /// accepted.
    pub level: String,
    /// The levels of individual loggers. `LOG_LEVEL_<LOGGER>`.
    pub loggers: Vec<(Logger, String)>,
    /// `LOG_FORMATTER`: `text` (default) or `json`.
    pub is_json: bool,
    /// The maximum length of a body that is logged at `debug`; `None` means without limit.
    /// `LOG_ROUTER_BYTE_LIMIT`, default 100,000; 0 or less means without limit, as in v1.
    pub body_bytes: Option<usize>,
}

/// A component whose level can be set separately, under v1's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logger {
    /// The suffix of the setting's name.
    pub name: &'static str,
    /// The modules that it covers.
    pub targets: &'static [&'static str],
}

const LOGGERS: &[Logger] = &[
    Logger {
        name: "MAIN",
        targets: &["skytrail::app"],
    },
    Logger {
        name: "ROUTER",
        targets: &["skytrail::http"],
    },
    Logger {
        name: "HANDLER",
        targets: &["skytrail::action"],
    },
    Logger {
        name: "PREPROCESSOR",
        targets: &["skytrail::http::checks"],
    },
    Logger {
        name: "PLUGIN",
        targets: &["skytrail_actors::plugin", "skytrail::socket::plugin"],
    },
    Logger {
        name: "PUBSUB",
        targets: &["skytrail_actors::hub", "skytrail::socket::pubsub"],
    },
    Logger {
        name: "AUDIT",
        targets: &["skytrail::audit"],
    },
    Logger {
        name: "PUSH",
        targets: &["skytrail::push", "skytrail_actors::push"],
    },
    Logger {
        name: "SKYDB",
        targets: &[
            "skytrail_actors::log",
            "skytrail_actors::projector",
            "skytrail_actors::record",
            "skytrail::projection",
            "sqlx",
        ],
    },
];

/// Loggers of v1 that have nothing to log in this server.
const SILENT: &[&str] = &["SUBSCRIPTION"];
/// v1's levels and the levels here. `fatal` and `panic` are the same as `error` here.
const LEVELS: &[(&str, &str)] = &[
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warn", "warn"),
    ("warning", "warn"),
    ("error", "error"),
    ("fatal", "error"),
    ("panic", "error"),
    ("off", "off"),
];
const EXPECTED_LEVEL: &str = "trace, debug, info, warn, error or off";

pub(super) fn read(reader: &mut Reader<'_>) -> Log {
    let text = reader.text("LOG_LEVEL", "info");
    let level = if text.contains(['=', ',']) {
        EnvFilter::try_new(&text).ok().map(|_| text.clone())
    } else {
        level(&text).map(str::to_owned)
    };
    if level.is_none() {
        let expected = format!("{EXPECTED_LEVEL}, or a filter such as info,skytrail::http=debug");
        reader.refuse("LOG_LEVEL", &text, &expected);
    }
    Log {
        level: level.unwrap_or_else(|| "info".to_owned()),
        loggers: read_loggers(reader),
        is_json: reader.choice("LOG_FORMATTER", "text", &["text", "json"]) == "json",
        body_bytes: read_body_bytes(reader),
    }
}

fn level(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let known = LEVELS.iter().find(|(name, _)| *name == text);
    known.map(|(_, level)| *level)
}

fn read_loggers(reader: &mut Reader<'_>) -> Vec<(Logger, String)> {
    const PREFIX: &str = "LOG_LEVEL_";
    let mut loggers = Vec::new();
    for name in reader.names_with(PREFIX) {
        let value = reader.text(&name, "");
        let short = name.trim_start_matches(PREFIX);
        let logger = LOGGERS.iter().find(|logger| logger.name == short);
        match (logger, level(&value)) {
            (_, None) => reader.refuse(&name, &value, EXPECTED_LEVEL),
            (Some(logger), Some(level)) => loggers.push((*logger, level.to_owned())),
            (None, Some(_)) if SILENT.contains(&short) => {}
            (None, Some(_)) => {
                let names = LOGGERS.iter().map(|logger| logger.name);
                let names: Vec<_> = names.chain(SILENT.iter().copied()).collect();
                let expected = format!("one of these after {PREFIX}: {}", names.join(", "));
                reader.refuse(&name, &value, &expected);
            }
        }
    }
    loggers
}

fn read_body_bytes(reader: &mut Reader<'_>) -> Option<usize> {
    const NAME: &str = "LOG_ROUTER_BYTE_LIMIT";
    let text = reader.text(NAME, "100000");
    let number: i64 = text.parse().unwrap_or_else(|_| {
        reader.refuse(NAME, &text, "a whole number; 0 or less for no limit");
        0
    });
    usize::try_from(number).ok().filter(|number| *number > 0)
}
