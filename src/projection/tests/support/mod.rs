//! The server that the tests of this process share, like the integration tests.

use std::time::{Duration, Instant};

#[path = "../../../../tests/support/machine.rs"]
mod machine;
#[path = "../../../../tests/support/postgres.rs"]
pub(super) mod server;

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
