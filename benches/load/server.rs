//! Our server as the rows use it: default settings, fresh or kept data, a signed-in user.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::drive::{Job as _, drive_times};
use crate::http::Client;
use crate::process::Server;
use crate::request::{Barrier, Session, SignUp};
use crate::rig::Rig;

/// How long it may take until acknowledged records are visible.
const SETTLING: Duration = Duration::from_secs(60);

const API_KEY: &str = "load-driver-client-key";
pub(crate) const MASTER_KEY: &str = "load-driver-master-key";

/// Starts the server on a data directory. Everything is the default, except for the address, and
/// that the one user may sign up and in as often as the driver likes.
pub(crate) fn start(rig: &Rig<'_>, data_dir: &Path) -> Server {
    start_with(rig, data_dir, &[])
}

/// Like [`start`], with more settings.
pub(crate) fn start_with(rig: &Rig<'_>, data_dir: &Path, settings: &[(&str, String)]) -> Server {
    let mut command = Command::new(&rig.options.server);
    command
        .arg("serve")
        .env("HOST", "127.0.0.1:0")
        .env("APP_NAME", "load")
        .env("API_KEY", API_KEY)
        .env("MASTER_KEY", MASTER_KEY)
        .env("DATA_DIR", data_dir)
        .env("DEV_MODE", "YES")
        .env("AUTH_THROTTLE", "off")
        .envs(settings.iter().map(|(name, value)| (*name, value)))
        .current_dir(data_dir);
    if let Some(slow) = &rig.slow {
        slow.apply(&mut command);
    }
    Server::start(&mut command, &data_dir.with_extension("log"))
}

/// Signs up the one user of a fresh server.
pub(crate) async fn sign_up(server: &Server) -> Session {
    let mut request = Vec::new();
    SignUp { api_key: API_KEY }.write_request(&mut request);
    let mut client = Client::connect(server.addr).await.expect("a connection");
    let response = client.send(&request).await.expect("an answer");
    let text = String::from_utf8_lossy(response.body);
    let body: serde_json::Value = serde_json::from_slice(response.body).expect("JSON");
    let token = body
        .pointer("/result/access_token")
        .and_then(|token| token.as_str());
    let access_token = token
        .unwrap_or_else(|| panic!("no token in {text}"))
        .to_owned();
    Session {
        api_key: API_KEY.to_owned(),
        access_token,
    }
}

/// Waits until the server has nothing left to do for what it has acknowledged. On slow machines it
/// may answer that it is too far behind.
pub(crate) async fn settle(clients: &mut [Client], session: &Session) {
    let begun = Instant::now();
    loop {
        let outcome = drive_times(&mut clients[..1], &Barrier { session }, 1).await;
        let Some(failure) = outcome.first_failure else {
            return;
        };
        assert!(begun.elapsed() < SETTLING, "a query failed: {failure}");
    }
}
