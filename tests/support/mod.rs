//! What all tests from outside share: a server for each test, and clients for it.

pub mod client;
pub mod load;
pub mod machine;
pub mod place;
pub mod postgres;
pub mod power;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod s3;
pub mod search;
pub mod server;
pub mod socket;
pub mod sse;
pub mod wire;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Fails if others than its owner can read a file.
pub fn assert_private(path: &Path) {
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others can read {}", path.display());
}

/// Sets a flag when it goes out of scope, also after a failure: a test whose threads go on until then
/// would never end.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks repeatedly until there is an answer; fails if none arrives in time.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(Duration::from_secs(90), what, ask)
}

/// Like [`eventually`], with a longer limit.
pub fn eventually_within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
