//! The real binary with a data folder of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::eventually;
use super::socket::{Incoming, Socket};

pub const API_KEY: &str = "client-key-of-the-tests";
pub const MASTER_KEY: &str = "master-key-of-the-tests";
/// How the line that gives the server's address begins.
const READY: &str = "skytrail: ready on ";
/// How long a server may take until it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);

pub struct TestServer {
    child: Child,
    pub base_url: String,
    settings: Vec<(String, String)>,
    /// A command that starts the server's command, such as a tracer.
    wrapper: Vec<String>,
    folder: Arc<tempfile::TempDir>,
    output: Arc<Mutex<String>>,
    addresses: Mutex<Receiver<String>>,
}

impl TestServer {
    /// Starts a server with the tests' default settings.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with further settings, named as in the environment.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut all: Vec<(String, String)> = [
            ("HOST", "127.0.0.1:0"),
            ("API_KEY", API_KEY),
            ("MASTER_KEY", MASTER_KEY),
            ("APP_NAME", "myapp"),
            ("AUTH_THROTTLE", "off"),
            ("LOG_LEVEL", "info"),
            ("DISK_RESERVE_BYTES", "0"),
        ]
        .iter()
        .chain(settings)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
        if !all.iter().any(|(name, _)| name == "DATA_DIR") {
            let data = folder.path().join("data").to_string_lossy().into_owned();
            all.push(("DATA_DIR".to_owned(), data));
        }
        Self::launch(all, Vec::new(), folder)
            .unwrap_or_else(|said| panic!("server not ready:\n{said}"))
    }

    fn launch(
        settings: Vec<(String, String)>,
        wrapper: Vec<String>,
        folder: Arc<tempfile::TempDir>,
    ) -> Result<Self, String> {
        let mut words = wrapper.iter().map(String::as_str);
        let program = env!("CARGO_BIN_EXE_skytrail");
        let mut command = match words.next() {
            Some(first) => Command::new(first),
            None => Command::new(program),
        };
        command.args(words);
        if !wrapper.is_empty() {
            command.arg(program);
        }
        command.arg("serve").env_clear().current_dir(folder.path());
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        // One pipe keeps the order: when the server reports that it is ready, what it logged before
        // has been read.
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdin(Stdio::null());
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut child = command.spawn().unwrap();
        drop(command);
        let output = Arc::new(Mutex::new(String::new()));
        let addresses = watch(reader, Arc::clone(&output));
        match addresses.recv_timeout(READY_DEADLINE) {
            Ok(base_url) => Ok(Self {
                child,
                base_url,
                settings,
                wrapper,
                folder,
                output,
                addresses: Mutex::new(addresses),
            }),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                read_to_end(&addresses);
                Err(output.lock().unwrap().clone())
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn data_dir(&self) -> PathBuf {
        let data = self.settings.iter().find(|(name, _)| name == "DATA_DIR");
        Path::new(&data.unwrap().1).to_owned()
    }

    pub fn address(&self) -> &str {
        self.base_url.trim_start_matches("http://")
    }

    /// Returns what the server has printed so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks the server to end and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_end();
        self.wait()
    }

    /// Asks the server to end and waits until it has begun to: the first thing it does is
    /// disconnect the followers of its log.
    pub fn begin_to_terminate(&self) {
        let key = [("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
        let mut follower = Socket::open(self.address(), "/log", &key).unwrap();
        self.ask_to_end();
        let heard = follower.receive(READY_DEADLINE);
        assert!(matches!(heard, Incoming::Closed), "{heard:?}");
    }

    fn ask_to_end(&self) {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    }

    /// Starts a command on the same data and kills it after `time`, whatever it is doing.
    pub fn start_and_kill_after(&mut self, command_name: &str, time: Duration) {
        self.kill();
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command
            .arg(command_name)
            .env_clear()
            .current_dir(self.folder.path());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::park_timeout(time);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts again on the same data, with further settings.
    pub fn restart_with(&mut self, settings: &[(&str, &str)]) {
        let settings = settings.iter();
        self.settings
            .extend(settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.restart();
    }

    /// Starts again on the same data; the previous process must have ended.
    pub fn restart(&mut self) {
        self.try_restart()
            .unwrap_or_else(|said| panic!("server not ready again:\n{said}"));
    }

    /// Like [`TestServer::restart`], for a server that may refuse to start: returns what it
    /// printed.
    pub fn try_restart(&mut self) -> Result<(), String> {
        self.kill();
        let (settings, wrapper) = (self.settings.clone(), self.wrapper.clone());
        *self = Self::launch(settings, wrapper, Arc::clone(&self.folder))?;
        Ok(())
    }

    /// Sets the command that starts the server's command from the next start on.
    pub fn wrap(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Sets a setting, named as in the environment, for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// The test's own folder, next to the data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs another command of the program on the same data.
    pub fn skytrail(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.env_clear().env("DATA_DIR", self.data_dir());
        command.args(arguments).output().unwrap()
    }

    /// Waits until the process has been ready `number` times, and continues with its latest
    /// address.
    pub fn await_start(&mut self, number: usize) {
        let (output, child) = (&self.output, &mut self.child);
        self.base_url = eventually("the server starts again", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the process ended: {ended:?}");
            let output = output.lock().unwrap();
            let mut starts = output.lines().filter_map(|line| line.strip_prefix(READY));
            starts
                .nth(number - 1)
                .map(|address| address.trim().to_owned())
        });
    }

    /// Waits until the server ends by itself, and until all that it printed has been read.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = eventually("the server ends", || child.try_wait().unwrap());
        read_to_end(&self.addresses.lock().unwrap());
        status
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let from = output.len().saturating_sub(8000);
            eprintln!(
                "--- the server said:\n{}",
                output.get(from..).unwrap_or(&output)
            );
        }
    }
}

/// Returns an address below the system's range of automatic ports, so that no other process gets it
/// while the server is down.
pub fn lasting_address() -> String {
    static NUM_GIVEN: AtomicU32 = AtomicU32::new(0);
    let first = 20_000 + std::process::id() % 10_000;
    std::iter::repeat_with(|| first + NUM_GIVEN.fetch_add(1, Ordering::Relaxed))
        .take(1000)
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| TcpListener::bind(address).is_ok())
        .unwrap()
}

/// Waits until all output of a process that has ended was read, unless its children still live.
fn read_to_end(addresses: &Receiver<String>) {
    while addresses.recv_timeout(Duration::from_secs(10)).is_ok() {}
}

/// Collects the lines of a stream; sends the addresses from the lines that report the server ready.
fn watch(stream: impl Read + Send + 'static, output: Arc<Mutex<String>>) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some(address) = line.strip_prefix(READY) {
                let _ = sender.send(address.trim().to_owned());
            }
            let mut output = output.lock().unwrap();
            output.push_str(&line);
            output.push('\n');
        }
    });
    receiver
}
