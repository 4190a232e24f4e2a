//! Settings in files, the environment and flags, and which of them are refused.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::machine::{run, skipped};
use crate::support::server::{MASTER_KEY, TestServer};

/// A folder in which the program is started.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(name: &str, text: impl AsRef<[u8]>) -> Self {
        let place = Self::new();
        place.write(name, text);
        place
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Returns the result of `skytrail config` here: its exit code, the settings, and the
    /// complaints.
    fn config(
        &self,
        environment: &[(&str, &OsStr)],
        flags: &[&str],
    ) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.env_clear().current_dir(self.0.path());
        command.envs(environment.iter().copied());
        let output = command.arg("config").args(flags).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (code, shown, said) = (output.status.code(), &output.stdout, &output.stderr);
        (code, text(shown), text(said))
    }

    /// Returns the complaint of a command that fails here; the words in `before` start the program.
    fn failing(&self, before: &[&str], arguments: &[&str]) -> String {
        let mut words = before.to_vec();
        words.push(env!("CARGO_BIN_EXE_skytrail"));
        words.extend(arguments);
        let mut command = Command::new(words[0]);
        command.env_clear().current_dir(self.0.path());
        let output = command.args(&words[1..]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

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
    std::fs::create_dir(folder.0.path().join(".env")).unwrap();
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
        command.env_clear().current_dir(place.0.path());
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
fn what_is_shown_to_nobody_ends_as_by_sigpipe_and_a_command_that_cannot_write_says_so() {
    let server = TestServer::start();
    let master_key = format!("MASTER_KEY={MASTER_KEY}");
    let of_server = ["--set", &master_key, "--server", &server.base_url];
    for (arguments, others) in [
        (&["config"][..], &[][..]),
        (&["export"], &of_server),
        (&["export", "user", "--format", "csv"], &of_server),
        (&["log", "search"], &of_server),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.args(arguments).args(others).stdout(writer);
        let ended = command.stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(
            (ended.status.code(), &*said),
            (Some(141), ""),
            "{arguments:?}"
        );
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.arg("config").stdout(full).stderr(Stdio::piped());
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("the output cannot be written"), "{said}");
}

#[test]
fn the_data_folder_is_nobody_elses_unless_somebody_has_made_it() {
    let mode = |server: &TestServer| {
        let about = std::fs::metadata(server.data_dir()).unwrap();
        about.permissions().mode() & 0o777
    };
    let place = Place::new();
    let (parent, other) = (place.0.path().join("a"), place.0.path().join("b"));
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

#[test]
fn who_looks_in_the_wrong_place_is_told_where_to_look() {
    let place = Place::new();
    // Nothing can listen there.
    let set = ["--set", "MASTER_KEY=k", "--host", "127.0.0.1:1"];
    let cases = [
        (
            &["history", "list", "note/1"][..],
            "is it running? --server or HOST",
        ),
        (
            &["rebuild"],
            "no log in data: name the folder with --data-dir",
        ),
        (
            &["log", "tail"],
            "no log in data: name the folder with --data-dir",
        ),
        (
            &["backup", "backups"],
            "no log in data: name the folder with --data-dir",
        ),
        (
            &["backup", "nowhere", "--list"],
            "there are no backups at nowhere",
        ),
    ];
    for (arguments, expected) in cases {
        let said = place.failing(&[], &[&set, arguments].concat());
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

/// Commands that need the data folder, even if only for the master key in it.
const IN_DATA_FOLDER: [&[&str]; 11] = [
    &["log", "tail"],
    &["log", "stat"],
    &["log", "key"],
    &["rebuild"],
    &["rebuild", "--verify"],
    &["export"],
    &["history", "list", "note/1"],
    &["index", "list"],
    &["index", "free", "note", "text"],
    &["backup", "backups"],
    &["--host", "127.0.0.1:0", "serve"],
];

#[test]
fn a_data_folder_that_is_none_is_named_by_every_command() {
    let place = Place::with("d", "");
    for arguments in IN_DATA_FOLDER {
        let said = place.failing(&[], &[&["--data-dir", "d"], arguments].concat());
        assert!(said.contains("d is not a folder"), "{arguments:?}: {said}");
    }
}

#[test]
fn who_may_not_look_into_the_data_folder_is_told_so_by_every_command() {
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let program = env!("CARGO_BIN_EXE_skytrail");
    if let Err(why) = run(nobody[0], &[&nobody[1..], &[program, "--version"]].concat()) {
        return skipped("a data folder of somebody else", &why);
    }
    let place = Place::new();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.0.path(), open).unwrap();
    let data = place.0.path().join("d");
    std::fs::create_dir_all(data.join("journal")).unwrap();
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&data, closed).unwrap();
    let nobody = ["/usr/bin/env", "PATH=/usr/bin:/bin"].iter().chain(&nobody);
    let nobody: Vec<&str> = nobody.copied().collect();
    for arguments in IN_DATA_FOLDER {
        let said = place.failing(&nobody, &[&["--data-dir", "d"], arguments].concat());
        let expected = "d cannot be read: Permission denied";
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let serve = ["--host", "127.0.0.1:0", "--data-dir", "other", "serve"];
    let said = place.failing(&nobody, &serve);
    let expected = "other cannot be created: Permission denied";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_master_key_that_the_server_does_not_know_is_not_shown() {
    let server = TestServer::start();
    let (given, kept) = ("given-and-wrong", "kept-and-wrong");
    let place = Place::new();
    let data = place.0.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let keys = format!(r#"{{"api_key": "k", "master_key": "{kept}"}}"#);
    std::fs::write(data.join("keys.json"), keys).unwrap();
    let set = format!("MASTER_KEY={given}");
    for arguments in [
        &["history", "list", "note/1"][..],
        &["export"],
        &["erase", "list"],
        &["delivery", "list"],
        &["plugin", "list"],
        &["log", "search"],
        &["log", "follow"],
        &["health"],
    ] {
        for (flags, whence) in [
            (&["--set", &set][..], "the one here (from MASTER_KEY)"),
            (&[], "the one here (from data/keys.json)"),
        ] {
            let of_server = ["--host", server.address()];
            let said = place.failing(&[], &[flags, arguments, &of_server].concat());
            for expected in [&server.base_url, "has a different master key", whence] {
                assert!(said.contains(expected), "{arguments:?}: {said}");
            }
            let is_shown = said.contains(given) || said.contains(kept);
            assert!(!is_shown, "{arguments:?}: {said}");
        }
    }
}

/// Answers one request: redirects it to its own path below another address.
fn redirect(mut stream: &TcpStream, status: u16, to: &str) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(reader.read_until(b'\n', &mut head).unwrap() > 0);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: "));
    let length = length.map_or(0, |it| it.parse().unwrap());
    reader.read_exact(&mut vec![0; length]).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let more = "Content-Length: 0\r\nConnection: close\r\n";
    let answer = format!("HTTP/1.1 {status} Elsewhere\r\nLocation: {to}{path}\r\n{more}\r\n");
    stream.write_all(answer.as_bytes()).unwrap();
}

#[test]
fn a_command_does_not_take_the_master_key_to_where_it_is_redirected() {
    let place = Place::new();
    let (here, there) = ["127.0.0.1:0", "127.0.0.1:0"].map(TcpListener::bind).into();
    let (here, there) = (here.unwrap(), there.unwrap());
    there.set_nonblocking(true).unwrap();
    let address = format!("http://{}", here.local_addr().unwrap());
    let other = there.local_addr().unwrap();
    let commands = [
        &["task", "list"][..],
        &["export"],
        &["log", "follow"],
        &["log", "search"],
        &["audit", "refusals"],
        &["health"],
    ];
    let cases = commands
        .iter()
        .flat_map(|it| [302, 307].map(|status| (*it, status)));
    let cases: Vec<_> = cases.collect();
    let statuses: Vec<u16> = cases.iter().map(|(_, status)| *status).collect();
    let to = format!("http://ada:a-secret@{other}/app");
    let redirecting = std::thread::spawn(move || {
        for status in statuses {
            redirect(&here.accept().unwrap().0, status, &to);
        }
    });
    let set = ["--set", "MASTER_KEY=master-key-of-mine"];
    for (arguments, status) in cases {
        let of_server = ["--server", &address];
        let said = place.failing(&[], &[&set, arguments, &of_server].concat());
        let expected = format!("{address} redirects to http://{other}/app: use that address");
        assert!(said.contains(&expected), "{arguments:?} {status}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    redirecting.join().unwrap();
    // Nobody listens there any more.
    let with_password = address.replace("http://", "http://ada:a-secret@");
    let arguments = [&set[..], &["task", "list", "--server", &with_password]].concat();
    let said = place.failing(&[], &arguments);
    assert!(said.contains(&format!("no server at {address} ")), "{said}");
    assert!(!said.contains("secret"), "{said}");
    let nobody = there.accept().map(drop).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock, "the key was sent on");
}

#[test]
fn what_lists_nothing_says_so() {
    let server = TestServer::start();
    let master_key = format!("MASTER_KEY={MASTER_KEY}");
    let of_server = ["--set", &master_key, "--server", &server.base_url];
    for (arguments, shown, said) in [
        (&["audit", "refusals"][..], "nobody was refused\n", ""),
        // A program expects lines of JSON here.
        (&["audit", "refusals", "--json"], "", ""),
        (&["erase", "list"], "", "skytrail: nothing was erased\n"),
        (
            &["erase", "list", "--before", "1"],
            "",
            "skytrail: no further erasures\n",
        ),
        (&["plugin", "calls"], "no plugin has been called yet\n", ""),
    ] {
        let output = server.skytrail(&[arguments, &of_server].concat());
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let found = (text(&output.stdout), text(&output.stderr));
        assert_eq!(found, (shown.to_owned(), said.to_owned()), "{arguments:?}");
    }
}
