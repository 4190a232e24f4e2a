//! Settings for the audit trail.

use std::path::PathBuf;

use super::source::Reader;

/// The port of fluentd's forward input.
const FLUENTD_PORT: u16 = 24_224;

/// The audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Whether it is enabled. `USER_AUDIT_ENABLED`, default off.
    pub is_enabled: bool,
    /// Where it is written in addition to standard error. `USER_AUDIT_TRAIL_HANDLER_URL`.
    pub target: Option<AuditTarget>,
    /// The address as configured, for plugins.
    pub url: String,
}

/// Where the audit trail is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTarget {
    /// Appended to a file: `file:///absolute/path`.
    File(PathBuf),
    /// Sent to fluentd's forward input: `fluentd://host[:24224]`.
    Fluentd {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
}

pub(super) fn read(reader: &mut Reader<'_>) -> Audit {
    let is_enabled = reader.boolean("USER_AUDIT_ENABLED", false);
    let url = reader.text("USER_AUDIT_TRAIL_HANDLER_URL", "");
    let target = parse_target(&url);
    if target.is_none() && !url.is_empty() {
        let expected = "file:///absolute/path or fluentd://host:24224";
        reader.refuse("USER_AUDIT_TRAIL_HANDLER_URL", &url, expected);
    }
    Audit {
        is_enabled,
        target,
        url,
    }
}

fn parse_target(url: &str) -> Option<AuditTarget> {
    if let Some(path) = url.strip_prefix("file://") {
        let is_file = path.starts_with('/') && !path.ends_with('/');
        return is_file.then(|| AuditTarget::File(PathBuf::from(path)));
    }
    let place = url.strip_prefix("fluentd://")?;
    let place = place.strip_suffix('/').unwrap_or(place);
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (place, FLUENTD_PORT),
    };
    let is_host = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
    is_host.then(|| AuditTarget::Fluentd {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_files_and_fluentds() {
        let fluentd = |host: &str, port| {
            let host = host.to_owned();
            Some(AuditTarget::Fluentd { host, port })
        };
        let file = |path: &str| Some(AuditTarget::File(PathBuf::from(path)));
        let cases = [
            ("file:///var/log/audit.log", file("/var/log/audit.log")),
            ("file://audit.log", None),
            ("file:///", None),
            ("fluentd://logs.example", fluentd("logs.example", 24_224)),
            ("fluentd://logs.example:99/", fluentd("logs.example", 99)),
            ("fluentd://[::1]:99", fluentd("::1", 99)),
            ("fluentd://[::1]", fluentd("::1", 24_224)),
            ("fluentd://", None),
            ("fluentd://logs.example:port", None),
            ("fluentd://user@logs.example", None),
            ("https://logs.example", None),
        ];
        for (url, expected) in cases {
            assert_eq!(parse_target(url), expected, "{url}");
        }
    }
}
