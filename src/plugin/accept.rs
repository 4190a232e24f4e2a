//! Accepting connections, despite failures.

use std::io;
use std::time::Duration;

use tokio::time::sleep;

/// The pause after a failure, because exhausted file descriptors are not available again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts the next connection. `listener` names the listener in the log when that fails.
pub(super) async fn next_connection<Stream, Accepted>(
    accept: impl Fn() -> Accepted,
    listener: &str,
) -> Stream
where
    Accepted: Future<Output = io::Result<Stream>>,
{
    loop {
        match accept().await {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!(listener, %error, "no connection accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn who_cannot_take_connections_pauses_before_each_try() {
        let (begun, num_tries) = (Instant::now(), Cell::new(0));
        let accept = || async {
            num_tries.set(num_tries.get() + 1);
            match num_tries.get() {
                0..5 => Err(io::Error::other("too many open files")),
                tries => Ok(tries),
            }
        };
        assert_eq!(next_connection(accept, "test").await, 5);
        assert!(begun.elapsed() >= PAUSE * 4);
    }
}
