//! What every row uses: the options, a place for data, the bare server.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::http::Client;
use crate::options::Options;
use crate::process::Server;
use crate::request::Session;
use crate::server;
use crate::slow::Slow;

pub(crate) struct Rig<'a> {
    pub(crate) options: &'a Options,
    pub(crate) bare: Server,
    pub(crate) slow: Option<Slow>,
    dir: TempDir,
    num_dirs: Cell<usize>,
}

impl<'a> Rig<'a> {
    pub(crate) fn new(options: &'a Options) -> Self {
        let dir = tempfile::tempdir_in(&options.dir).expect("a directory for the run");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg("--bare").arg(dir.path().join("bare.bin"));
        command.args(["--workers", &options.workers.to_string()]);
        let slow = options.flush_us;
        let slow = slow.map(|micros| Slow::build(dir.path(), micros));
        if let Some(slow) = &slow {
            slow.apply(&mut command);
        }
        let bare = Server::start(&mut command, &dir.path().join("bare.log"));
        Self {
            options,
            bare,
            slow,
            dir,
            num_dirs: Cell::new(0),
        }
    }

    /// Creates an empty directory.
    pub(crate) fn fresh_dir(&self) -> PathBuf {
        self.num_dirs.set(self.num_dirs.get() + 1);
        let path = self
            .dir
            .path()
            .join(format!("data-{}", self.num_dirs.get()));
        std::fs::create_dir(&path).expect("a data directory");
        path
    }

    /// Starts our server on an empty directory, with one user signed up.
    pub(crate) async fn fresh_server(&self) -> Loaded {
        self.fresh_server_with(&[]).await
    }

    /// Like [`Rig::fresh_server`], with more settings.
    pub(crate) async fn fresh_server_with(&self, settings: &[(&str, String)]) -> Loaded {
        let dir = self.fresh_dir();
        let server = server::start_with(self, &dir, settings);
        let session = server::sign_up(&server).await;
        Loaded {
            server,
            session,
            dir,
            next: Cell::new(0),
        }
    }
}

/// Our running server, and what the driver has put into it.
pub(crate) struct Loaded {
    pub(crate) server: Server,
    pub(crate) session: Session,
    pub(crate) dir: PathBuf,
    /// Records with numbers below this exist.
    pub(crate) next: Cell<u64>,
}

impl Loaded {
    pub(crate) async fn connect(&self, number: usize) -> Vec<Client> {
        Client::connect_many(self.server.addr, number)
            .await
            .expect("connections")
    }
}
