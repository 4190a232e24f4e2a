//! Settings in files, the environment and flags, and which of them are refused.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::place::Place;
use crate::support::server::TestServer;

#[test]
fn an_empty_file_is_no_secret() {
    let names = [
        "API_KEY",
        "MASTER_KEY",
        "TOKEN_STORE_SECRET",
        "CUSTOM_TOKEN_SECRET",
        "METRICS_KEY",
        "DATABASE_URL",
    ];
    for text in ["", "\n", " \t\r\n"] {
        let place = Place::new();
        let path = place.write("secret", text);
        for name in names {
            let name = format!("{name}_FILE");
            let (code, _, said) = place.config(&[(&name, path.as_os_str())], &[]);
            assert_eq!(code, Some(2), "{name} {text:?}: {said}");
            let is_named = [&name, path.to_str().unwrap(), "empty"];
            assert!(is_named.iter().all(|it| said.contains(it)), "{said}");
        }
    }
}

#[test]
fn what_cannot_be_read_ends_the_start() {
    let folder = Place::new();
    std::fs::create_dir(folder.path().join(".env")).unwrap();
    let latin = Place::with(".env", b"DEV_MODE=NO\n# caf\xe9\n");
    for place in [folder, latin] {
        let (code, _, said) = place.config(&[], &[]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(".env: "), "{said}");
    }
    let place = Place::new();
    let latin = OsStr::from_bytes(b"caf\xe9");
    let (code, _, said) = place.config(&[("MASTER_KEY", latin)], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("MASTER_KEY") && said.contains("UTF-8"),
        "{said}"
    );
    let (code, _, said) = place.config(&[("SOMEBODY_ELSES", latin)], &[]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn what_is_behind_a_value_in_dot_env_is_a_comment() {
    let place = Place::with(
        ".env",
        "CORS_HOST=https://a # the site\nAPP_NAME='chat' # 'quoted'\nAPI_KEY=a#b\n\
         METRICS_KEY= # none\nPLUGINS=\"A # B\"\nexport MASTER_KEY=x\t# a tab\n",
    );
    let (code, shown, said) = place.config(&[], &[]);
    assert_eq!(code, Some(0), "{said}");
    for line in [
        "CORS_HOST=https://a  # .env",
        "APP_NAME=chat  # .env",
        "METRICS_KEY=  # default",
        "PLUGINS=A # B  # .env",
    ] {
        assert!(shown.lines().any(|it| it == line), "{line} in {shown}");
    }
}

#[test]
fn an_origin_that_no_browser_sends_is_refused_by_its_name() {
    let place = Place::new();
    for wrong in [
        "https://b.example/",
        "file:///",
        "file://app",
        "NULL",
        "b.example",
    ] {
        let value = format!("https://a.example, {wrong},null");
        let (code, _, said) = place.config(&[("CORS_HOST", OsStr::new(&value))], &[]);
        assert_eq!(code, Some(2), "{wrong}: {said}");
        let named = format!("{wrong:?} is not one");
        assert!(
            said.contains("CORS_HOST") && said.contains(&named),
            "{said}"
        );
    }
    for right in ["file://", "null", "https://a.example,file://,null"] {
        let (code, _, said) = place.config(&[("CORS_HOST", OsStr::new(right))], &[]);
        assert_eq!(code, Some(0), "{right}: {said}");
    }
}

#[test]
fn passwords_in_what_is_refused_or_shown_are_masked() {
    let refused = [
        ("DATABASE_URL", "host=db user=sky password=hunter2"),
        ("DATABASE_URL", "mysql://sky:hunter2@db/sky"),
        ("USER_AUDIT_TRAIL_HANDLER_URL", "fluentd://u:hunter2@h"),
        ("ASSET_STORE_S3_ENDPOINT", "ftp://u:hunter2@h"),
        ("BACKUP_S3_ENDPOINT", "ftp://u:hunter2@h"),
        ("APNS_ENDPOINT", "http://u:hunter2@h"),
        ("CORS_HOST", "https://a.example,http://u:hunter2@h"),
    ];
    let place = Place::new();
    for (name, value) in refused {
        let environment = [(name, OsStr::new(value)), ("APNS_ENABLE", OsStr::new("1"))];
        let (code, _, said) = place.config(&environment, &[]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(name) && !said.contains("hunter2"), "{said}");
    }
    let shown = [
        "ASSET_STORE_S3_ENDPOINT",
        "BACKUP_S3_ENDPOINT",
        "ASSET_STORE_S3_URL_PREFIX",
    ];
    let value = OsStr::new("https://u:hunter2@h");
    let (code, settings, said) = place.config(&shown.map(|name| (name, value)), &[]);
    assert_eq!(code, Some(0), "{said}");
    for name in shown {
        assert!(
            settings.contains(&format!("{name}=https://***@h")),
            "{settings}"
        );
    }
    assert!(!settings.contains("hunter2"), "{settings}");
    let place = Place::with("skytrail.toml", "master_key = hunter2\n");
    let (code, _, said) = place.config(&[], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("line 1") && said.contains("quotes"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_filter_with_a_mistake_is_refused() {
    let place = Place::new();
    let with = |level: &str| place.config(&[("LOG_LEVEL", OsStr::new(level))], &[]);
    let (code, _, said) = with("error,skytrail=debgu");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("LOG_LEVEL"), "{said}");
    for level in ["error,skytrail=debug", "info,sqlx=off", "Warning"] {
        assert_eq!(with(level).0, Some(0), "{level}");
    }
}

#[test]
fn a_logger_that_nobody_knows_is_refused_with_all_that_there_are() {
    let place = Place::new();
    let with = |name: &str| place.config(&[(name, OsStr::new("debug"))], &[]);
    let (code, _, said) = with("LOG_LEVEL_FOO");
    assert_eq!(code, Some(2), "{said}");
    let names = said.trim().rsplit(": ").next().unwrap().split(", ");
    let names: Vec<_> = names.collect();
    assert!(names.contains(&"SUBSCRIPTION"), "{said}");
    for name in names {
        assert_eq!(with(&format!("LOG_LEVEL_{name}")).0, Some(0), "{name}");
    }
}

#[test]
fn the_version_is_told_whatever_the_settings_are() {
    let place = Place::with("skytrail.toml", "nonsense");
    for argument in ["version", "--version"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.env_clear().current_dir(place.path());
        let output = command.arg(argument).output().unwrap();
        assert!(output.status.success(), "{argument}: {output:?}");
        let expected = format!("skytrail {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}

#[test]
fn an_audit_trail_that_cannot_be_written_is_the_one_thing_that_is_told() {
    let place = Place::new();
    let mut arguments = vec!["--host", "127.0.0.1:0"];
    for setting in [
        "DEV_MODE=NO",
        "USER_AUDIT_ENABLED=YES",
        "USER_AUDIT_TRAIL_HANDLER_URL=file:///no/such/folder/audit.log",
        // Otherwise it may also say that the limit of file descriptors is low.
        "HTTP_MAX_CONNECTIONS=100",
    ] {
        arguments.extend(["--set", setting]);
    }
    arguments.push("serve");
    let said = place.failing(&[], &arguments);
    let expected =
        "skytrail: the audit trail cannot be written: /no/such/folder/audit.log: No such file";
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn names_that_are_no_settings_are_refused_with_the_nearest_one() {
    let place = Place::with(
        "skytrail.toml",
        "dev_mod = false\nfrobnicate = \"hush\"\nresponse_timeout = \"soon\"\nplugins = \"CHAT\"\n\
         chat_timeout = 5\nchat_tiemout = 5\nlog_level_router = \"debug\"\ndb_impl_name = \"pq\"\n\
         asset_store_secret_file = \"skytrail.toml\"\nsentry_dsn = \"x\"\n",
    );
    let flags = ["--set", "DEV_MOED=NO", "--set", "dev_mode=NO"];
    let (code, _, said) = place.config(&[("DEV_MDOE", OsStr::new("NO"))], &flags);
    assert_eq!(code, Some(2), "{said}");
    let mut lines: Vec<_> = said.lines().collect();
    lines.sort_unstable();
    let no = "no such setting; did you mean";
    let expected = [
        format!("skytrail: DEV_MOED (from command line): {no} DEV_MODE?"),
        "skytrail: RESPONSE_TIMEOUT = \"soon\" (from skytrail.toml): expected a whole number from \
         0 to 3153600000"
            .to_owned(),
        format!("skytrail: chat_tiemout (from skytrail.toml): {no} chat_timeout?"),
        format!("skytrail: dev_mod (from skytrail.toml): {no} dev_mode?"),
        format!("skytrail: dev_mode (from command line): {no} DEV_MODE?"),
        "skytrail: frobnicate (from skytrail.toml): no such setting".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn mistakes_name_the_file_that_was_read() {
    let place = Place::with("skytrail.toml", "app_name = \"unused\"\n");
    let read = |text: &str| {
        place.write("prod.toml", text);
        place.config(&[], &["--config", "prod.toml"])
    };
    for text in [
        "response_timeout = \"soon\"\n",
        "frobnicate = 1\n",
        "app_name = unquoted\n",
        "app_name = [1]\n",
    ] {
        let (code, _, said) = read(text);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("prod.toml"), "{said}");
        assert!(!said.contains("skytrail.toml"), "{said}");
    }
    let (code, shown, said) = read("app_name = \"chat\"\n");
    assert_eq!(code, Some(0), "{said}");
    assert!(shown.contains("APP_NAME=chat  # prod.toml"), "{shown}");
}

#[test]
fn names_in_dot_env_that_are_no_settings_are_warned_of() {
    let place = Place::with(
        ".env",
        "DEV_MOED=NO\nSENTRY_DSN=x\nPLUGINS=chat\nchat_TIMEOUT=5\n",
    );
    let (code, shown, said) = place.config(&[("DEV_MDOE", OsStr::new("NO"))], &[]);
    assert_eq!(code, Some(0), "{said}");
    let warning = "skytrail: DEV_MOED (from .env): no such setting; did you mean DEV_MODE?\n";
    assert_eq!(said, warning);
    assert!(shown.contains("chat_TIMEOUT=5  # .env"), "{shown}");
}

#[test]
fn settings_of_plugins_in_the_file_are_found_whatever_their_names_case() {
    for name in ["chat", "CHAT", "Chat"] {
        let text = format!("plugins = \"{name}\"\nchat_timeout = 5\nchat_path = \"unused\"\n");
        let (code, shown, said) = Place::with("skytrail.toml", text).config(&[], &[]);
        assert_eq!(code, Some(0), "{said}");
        assert!(shown.contains("CHAT_TIMEOUT=5  # skytrail.toml"), "{shown}");
    }
}

#[test]
fn the_data_folder_is_nobody_elses_unless_somebody_has_made_it() {
    let mode = |server: &TestServer| {
        let about = std::fs::metadata(server.data_dir()).unwrap();
        about.permissions().mode() & 0o777
    };
    let place = Place::new();
    let (parent, other) = (place.path().join("a"), place.path().join("b"));
    let data = parent.join("data");
    let mut server = TestServer::with(&[("DATA_DIR", data.to_str().unwrap())]);
    assert_eq!(mode(&server), 0o700);
    // Folders above it are created with the usual mode.
    std::fs::create_dir(&other).unwrap();
    let mode_of = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode_of(&parent), mode_of(&other));
    assert!(server.terminate().success());
    let open = std::fs::Permissions::from_mode(0o750);
    std::fs::set_permissions(server.data_dir(), open).unwrap();
    server.restart();
    assert_eq!(mode(&server), 0o750);
    let warning = "every user of this machine can read the data folder";
    assert!(!server.output().contains(warning));
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(server.data_dir(), open).unwrap();
    server.restart();
    assert!(server.output().contains(warning));
}
