//! A PostgreSQL server for the tests, and databases in it.
//!
//! All tests of a process share one server. It listens only on a socket in a temporary folder, its
//! data does not survive a machine crash, and whatever waits in it for ever ends with an error. It
//! runs under a shell that waits for its input to end. The test process holds the other end, so
//! however that process ends, the server is stopped and its folder removed. No other PostgreSQL is
//! touched.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use super::eventually;
use super::machine::run;

/// Where Debian's `postgresql-15` installs its programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// The superuser of the server; no password is required.
const USER: &str = "postgres";

/// The file that exists as long as the server runs.
const PID: &str = "data/postmaster.pid";

/// Runs the server until the shell's input ends.
const KEEPER: &str = r#"
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off \
    -c synchronous_commit=off -c shared_buffers=32MB -c max_connections=300 -c timezone=UTC \
    -c statement_timeout=5min -c idle_in_transaction_session_timeout=5min \
    $3 >"$2/log" 2>&1 &
server=$!
cat >/dev/null
kill -QUIT "$server"
wait "$server"
rm -rf "$2"
"#;

/// A server that ends when it is dropped, or with the test process.
pub struct Postgres {
    /// The last one runs the server.
    keepers: Mutex<Vec<Child>>,
    folder: PathBuf,
    databases: AtomicU32,
    /// Further arguments, separated by spaces.
    arguments: String,
}

/// Returns the server that the tests of this process share.
pub fn shared() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(Postgres::start)
}

impl Postgres {
    /// Starts a server with an empty folder of its own.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Like [`Postgres::start`], with further arguments, separated by spaces.
    pub fn start_with(arguments: &str) -> Self {
        Self::start_made_with(&[], arguments)
    }

    /// Starts a server whose write-ahead log is in an empty folder, in files of one megabyte, and
    /// never shrinks. The server ends when the log has no space left.
    pub fn start_with_log_in(folder: &Path) -> Self {
        let folder = folder.to_string_lossy();
        Self::start_made_with(
            &["-X", &folder, "--wal-segsize=1"],
            "-c wal_keep_size=1000 -c restart_after_crash=off",
        )
    }

    /// Keeps the server until the test process ends.
    pub fn lasting(self) -> &'static Self {
        Box::leak(Box::new(self))
    }

    fn start_made_with(how: &[&str], arguments: &str) -> Self {
        let initdb = format!("{PROGRAMS}/initdb");
        assert!(
            Path::new(&initdb).exists(),
            "no {initdb}: run tests/run.sh --setup once"
        );
        let folder = tempfile::tempdir().unwrap().keep();
        let data = folder.join("data");
        let mut make = Command::new(initdb);
        make.arg("-D").arg(&data).args(["-U", USER, "-A", "trust"]);
        make.args(["-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        make.args(how);
        // The server refuses to run as root.
        if let Some((user, group)) = unprivileged() {
            chown(&folder, Some(user), Some(group)).unwrap();
            make.uid(user).gid(group);
        }
        Self::made(make, folder, arguments)
    }

    /// Starts a standby, which replicates from a primary through `port` on this machine. It has
    /// everything the primary had, including the databases.
    pub fn standby(&self, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        let mut make = Command::new(format!("{PROGRAMS}/pg_basebackup"));
        make.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER]);
        make.args(["-R", "--no-sync", "-c", "fast", "-D"])
            .arg(folder.join("data"));
        if let Some((user, group)) = unprivileged() {
            chown(&folder, Some(user), Some(group)).unwrap();
            make.uid(user).gid(group);
        }
        Self::made(make, folder, &self.arguments)
    }

    /// Starts a server whose data folder this command creates.
    fn made(mut make: Command, folder: PathBuf, arguments: &str) -> Self {
        let made = make.current_dir(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{said}");
        let server = Self {
            keepers: Mutex::default(),
            folder,
            databases: AtomicU32::new(0),
            arguments: arguments.to_owned(),
        };
        server.start_again();
        server
    }

    /// Promotes a standby to primary.
    pub fn promote(&self) {
        let promoted = self.ask((USER, USER), "SELECT pg_promote()").unwrap();
        assert_eq!(promoted, "t\n");
    }

    /// Waits until a standby has everything that this server has written.
    pub fn await_standby(&self, standby: &Self) {
        let written = self
            .ask((USER, USER), "SELECT pg_current_wal_lsn()")
            .unwrap();
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", written.trim());
        eventually("the standby has everything", || {
            let answer = standby.ask((USER, USER), &replayed).unwrap();
            (answer == "t\n").then_some(())
        });
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs SQL in the superuser's database.
    pub fn sql(&self, sql: &str) -> String {
        self.ask((USER, USER), sql).unwrap()
    }

    /// Opens a session in a database and waits until it has run this SQL; the session ends when
    /// dropped.
    pub fn session(&self, place: (&str, &str), sql: &str) -> Session {
        let session = self.try_session(place, sql);
        session.unwrap_or_else(|_| panic!("the session ended: {sql}"))
    }

    /// Like [`Postgres::session`], for a server that may refuse.
    pub fn try_session(
        &self,
        (user, database): (&str, &str),
        sql: &str,
    ) -> Result<Session, std::process::ExitStatus> {
        let mut child = Command::new(format!("{PROGRAMS}/psql"))
            .arg("-h")
            .arg(&self.folder)
            .args(["-U", user, "-d", database, "-X", "-q", "-A", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut session = Session {
            child,
            input,
            output,
        };
        match session.try_sql(sql) {
            Some(_) => Ok(session),
            None => Err(session.child.wait().unwrap()),
        }
    }

    /// Starts the server and waits until it accepts connections.
    pub fn start_again(&self) {
        let mut keep = Command::new("sh");
        keep.args(["-c", KEEPER, "keeper", PROGRAMS])
            .arg(&self.folder)
            .arg(&self.arguments);
        if let Some((user, group)) = unprivileged() {
            keep.uid(user).gid(group);
        }
        // In a process group of its own, so that Ctrl-C leaves it time to clean up.
        keep.current_dir(&self.folder).process_group(0);
        keep.stdin(Stdio::piped()).stdout(Stdio::null());
        self.keepers.lock().unwrap().push(keep.spawn().unwrap());
        eventually("PostgreSQL takes connections", || {
            self.ask((USER, USER), "SELECT 1").ok()
        });
    }

    /// Ends the server as a crash does: immediately, with nothing more written.
    pub fn crash(&self) {
        let pid = std::fs::read_to_string(self.folder.join(PID)).unwrap();
        let pid = pid.lines().next().unwrap();
        run("kill", &["-QUIT", pid]).unwrap();
        self.await_end();
    }

    /// Waits until the server has ended.
    pub fn await_end(&self) {
        let file = self.folder.join(PID);
        eventually("PostgreSQL is gone", || (!file.exists()).then_some(()));
    }

    /// Creates a database with some extensions; it is dropped with the returned value.
    pub fn database(&self, extensions: &[&str]) -> Database<'_> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        self.ask((USER, USER), &format!("CREATE DATABASE {name}"))
            .unwrap();
        let database = Database { server: self, name };
        for extension in extensions {
            database.sql(&format!("CREATE EXTENSION \"{extension}\""));
        }
        database
    }

    /// Runs SQL as a role in a database and returns its output, one row per line.
    fn ask(&self, (role, database): (&str, &str), sql: &str) -> Result<String, String> {
        let folder = self.folder.to_string_lossy();
        let to = ["-h", &folder, "-U", role, "-d", database];
        let how = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql];
        run(&format!("{PROGRAMS}/psql"), &[&to[..], &how[..]].concat())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        for keeper in self.keepers.get_mut().unwrap() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

/// A session that stays open; its locks are released when it is dropped.
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Session {
    /// Runs SQL and returns its rows, which are none if it failed.
    pub fn sql(&mut self, sql: &str) -> Vec<String> {
        let rows = self.try_sql(sql);
        rows.unwrap_or_else(|| panic!("the session ended: {sql}"))
    }

    /// Like [`Session::sql`]; `None` if the session ended.
    fn try_sql(&mut self, sql: &str) -> Option<Vec<String>> {
        writeln!(self.input, "{sql};\n\\echo done").ok()?;
        let mut rows = Vec::new();
        loop {
            match self.output.next()?.ok()?.as_str() {
                "done" => return Some(rows),
                row => rows.push(row.to_owned()),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "\\q");
        let _ = self.child.wait();
    }
}

/// A database for one test.
pub struct Database<'a> {
    server: &'a Postgres,
    name: String,
}

impl Database<'_> {
    /// The address, as in `DATABASE_URL`.
    pub fn url(&self) -> String {
        let (folder, name) = (self.server.folder.to_string_lossy(), &self.name);
        format!("postgres://{USER}@localhost/{name}?host={folder}")
    }

    /// The folder of the server's socket.
    pub fn folder(&self) -> &Path {
        &self.server.folder
    }

    /// Its name in the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a session and waits until it has run this SQL; the session ends when dropped.
    pub fn session(&self, sql: &str) -> Session {
        self.server.session((USER, &self.name), sql)
    }

    /// Runs SQL and returns its output, one row per line, with values separated by `|`.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap()
    }

    /// Like [`Database::sql`], but returns the error.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        self.server.ask((USER, &self.name), sql)
    }

    /// Like [`Database::sql`], as another role.
    pub fn sql_as(&self, role: &str, sql: &str) -> String {
        self.try_sql_as(role, sql).unwrap()
    }

    /// Like [`Database::sql_as`], but returns the error.
    pub fn try_sql_as(&self, role: &str, sql: &str) -> Result<String, String> {
        self.server.ask((role, &self.name), sql)
    }

    /// Returns the relations whose files contain a text.
    pub fn relations_with(&self, text: &str) -> Vec<String> {
        // A checkpoint removes the files of dropped relations, and writes out what is only in
        // memory.
        self.sql("CHECKPOINT");
        let oid = "SELECT oid FROM pg_database WHERE datname = current_database()";
        let oid = self.sql(oid);
        let folder = self.folder().join("data/base").join(oid.trim());
        let files = std::fs::read_dir(folder).unwrap().flatten();
        let has_text = |path: &PathBuf| {
            let bytes = std::fs::read(path).unwrap_or_default();
            let mut parts = bytes.windows(text.len());
            parts.any(|part| part == text.as_bytes())
        };
        let found = files.map(|file| file.path()).filter(has_text);
        let name = |path: PathBuf| {
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            let node = file.split(['.', '_']).next().unwrap_or_default();
            self.sql(&format!(
                "SELECT '{file}: ' || pg_filenode_relation(0, {node})::text"
            ))
        };
        found.map(name).collect()
    }

    /// Restores the output of `pg_dump`.
    pub fn restore(&self, dump: &[u8]) {
        let mut child = Command::new(format!("{PROGRAMS}/psql"))
            .arg("-h")
            .arg(&self.server.folder)
            .args(["-U", USER, "-d", &self.name])
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(dump).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        if let Err(error) = self.server.ask((USER, USER), &sql) {
            eprintln!("{error}");
        }
    }
}

/// The user and group that Debian's package creates, if the tests run as root.
pub fn unprivileged() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| -> u32 { run("id", arguments).unwrap().trim().parse().unwrap() };
    (id(&["-u"]) == 0).then(|| (id(&["-u", USER]), id(&["-g", USER])))
}

#[test]
fn databases_are_apart() {
    let (one, two) = (shared().database(&["citext"]), shared().database(&[]));
    one.restore(b"CREATE TABLE t (n citext);\nINSERT INTO t VALUES ('A');\n");
    assert_eq!(one.sql("SELECT n, n = 'a' FROM t"), "A|t\n");
    assert_eq!(two.sql("SELECT to_regclass('t') IS NULL"), "t\n");
    assert_ne!(one.url(), two.url());
}

#[test]
fn a_server_leaves_nothing() {
    let server = Postgres::start();
    let folder = server.folder.clone();
    server.database(&[]).sql("CREATE TABLE t (n integer)");
    drop(server);
    assert!(!folder.exists());
}
