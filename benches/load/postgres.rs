//! A PostgreSQL server for the driver, with default durability: what it acknowledges is on the
//! disk.
//!
//! It runs under a shell that waits for its input to end, so it ends with the driver.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where Debian's `postgresql-15` installs its programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const USER: &str = "postgres";
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs the server until the shell's input ends.
const KEEPER: &str = r#"
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c max_connections=100 2>"$2/log" &
server=$!
cat >/dev/null
kill -INT "$server"
wait "$server"
"#;

/// A running server; dropping it ends it and removes its data.
pub(crate) struct Postgres {
    keeper: Child,
    folder: TempDir,
}

impl Postgres {
    /// Returns whether this machine has one.
    pub(crate) fn is_installed() -> bool {
        Path::new(PROGRAMS).exists()
    }

    /// Starts a server with its data below `dir`.
    pub(crate) fn start(dir: &Path) -> Result<Self, String> {
        let folder = tempfile::tempdir_in(dir).map_err(|error| error.to_string())?;
        let user = unprivileged();
        if let Some((user, group)) = user {
            chown(folder.path(), Some(user), Some(group)).map_err(|error| error.to_string())?;
        }
        let command = |program: &str| {
            let mut command = Command::new(program);
            // The server refuses to run as root.
            if let Some((user, group)) = user {
                command.uid(user).gid(group);
            }
            command.current_dir(folder.path());
            command
        };
        let mut make = command(&format!("{PROGRAMS}/initdb"));
        make.args(["-D", "data", "-U", USER, "-A", "trust", "-E", "UTF8"]);
        make.arg("--locale=C.UTF-8");
        let made = make.output().map_err(|error| error.to_string())?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into_owned());
        }
        let mut keep = command("sh");
        keep.args(["-c", KEEPER, "keeper", PROGRAMS])
            .arg(folder.path());
        keep.stdin(Stdio::piped()).stdout(Stdio::null());
        let keeper = keep.spawn().map_err(|error| error.to_string())?;
        let server = Self { keeper, folder };
        let begun = Instant::now();
        while server.sql("postgres", "SELECT 1").is_err() {
            if begun.elapsed() > DEADLINE {
                let log = std::fs::read_to_string(server.folder.path().join("log"));
                return Err(format!("not ready: {}", log.unwrap_or_default()));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Creates a database and returns its address.
    pub(crate) fn make_database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name}"))
            .expect("a database");
        let folder = self.folder.path().display();
        format!("postgres://{USER}@localhost/{name}?host={folder}")
    }

    /// Runs SQL and returns its output.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let how = ["-X", "-q", "-A", "-t", "-c", sql];
        self.run("psql", database, &how)
    }

    /// Returns how many transactions per second a number of clients achieve, each one statement
    /// after the other, for some seconds.
    pub(crate) fn rate(
        &self,
        database: &str,
        script: &str,
        (clients, seconds): (usize, u64),
    ) -> Result<f64, String> {
        let file = self.folder.path().join("script.sql");
        std::fs::write(&file, script).map_err(|error| error.to_string())?;
        let (file, clients) = (file.to_string_lossy(), clients.to_string());
        let seconds = seconds.to_string();
        let how = ["-n", "-c", &clients, "-T", &seconds, "-f", &file];
        let said = self.run("pgbench", database, &how)?;
        let rate = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = rate.and_then(|rate| rate.split_whitespace().next()?.parse().ok());
        rate.ok_or(said)
    }

    fn run(&self, program: &str, database: &str, how: &[&str]) -> Result<String, String> {
        let output = Command::new(format!("{PROGRAMS}/{program}"))
            .arg("-h")
            .arg(self.folder.path())
            .args(["-U", USER])
            .args(how)
            .env("PGDATABASE", database)
            .output();
        let output = output.map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its folder is removed when it has ended.
        drop(self.keeper.stdin.take());
        self.keeper.wait().ok();
    }
}

/// The user and group that Debian's package creates, if the driver runs as root.
fn unprivileged() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(arguments).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    match id(&["-u"])? {
        0 => Some((id(&["-u", USER])?, id(&["-g", USER])?)),
        _ => None,
    }
}
