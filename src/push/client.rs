//! Sends requests to push services.

use std::time::Duration;

use chrono::DateTime;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, RequestBuilder};
use skytrail_actors::push::SendError;
use skytrail_schema::time::Timestamp;

use crate::causes::chain;
use crate::tls::use_ring;

/// The time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a connection is pinged, and how long the answer may take: a service that vanishes
/// silently is noticed before the next push waits for it.
const PING_PERIOD: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest delay that a service can ask for; more is a mistake, and longer than any push waits.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
/// A longer answer is an error.
const MAX_ANSWER: usize = 64 << 10;
/// How many characters of a service's message are passed on.
const MAX_WORDS: usize = 200;

/// Returns the settings that all clients share.
pub(super) fn builder() -> ClientBuilder {
    use_ring();
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .redirect(Policy::none())
        .http2_keep_alive_interval(PING_PERIOD)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
}

/// A service's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Formats the service's reason for the log.
    pub(super) fn words(&self, reason: &str) -> String {
        let shown: String = reason.chars().take(MAX_WORDS).collect();
        format!("status {} {shown}", self.status)
    }

    /// Returns the error that asks for a later retry.
    pub(super) fn later(&self, reason: &str, holds_all: bool) -> SendError {
        SendError::Later {
            wait: self.retry_after,
            holds_all,
            why: self.words(reason),
        }
    }
}

/// Why there is no answer; without the address.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// There is no request with this address or this header: nothing was sent.
    #[error("the request cannot be built: {0}")]
    NoRequest(String),
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
}

impl NoAnswer {
    /// Returns the error for a request whose head contains something of the push.
    pub(super) fn verdict(self, holds_all: bool) -> SendError {
        match self {
            Self::NoRequest(_) => SendError::Unsendable(self.to_string()),
            Self::Connection(why) => unreachable(why, holds_all),
        }
    }
}

impl From<reqwest::Error> for NoAnswer {
    fn from(error: reqwest::Error) -> Self {
        let is_builder = error.is_builder();
        let why = chain(&error.without_url());
        if is_builder {
            Self::NoRequest(why)
        } else {
            Self::Connection(why)
        }
    }
}

/// Sends a request and returns the answer.
///
/// # Errors
/// See [`NoAnswer`].
pub(super) async fn ask(request: RequestBuilder, now: Timestamp) -> Result<Answer, NoAnswer> {
    let mut response = request.send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            let why = format!("an answer of more than {MAX_ANSWER} bytes");
            return Err(NoAnswer::Connection(why));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status: response.status().as_u16(),
        retry_after: retry_after(response.headers(), now),
        body,
    })
}

/// Returns the error for a service that could not be reached.
pub(super) fn unreachable(why: String, holds_all: bool) -> SendError {
    SendError::Later {
        wait: None,
        holds_all,
        why,
    }
}

/// Parses `Retry-After`: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let wait = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = DateTime::parse_from_rfc2822(text).ok()?;
        let micros = date.timestamp_micros().saturating_sub(now.micros());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_cannot_be_built_says_nothing_of_the_service() {
        let client = builder().build().unwrap();
        // Nobody listens at this port.
        let url = "http://127.0.0.1:1";
        let long = format!("{url}/{}", "a".repeat(70_000));
        for request in [
            client.post(url).header("apns-topic", "com.example.notes\n"),
            client.post(long),
        ] {
            let asked = ask(request, Timestamp::from_micros(0)).await;
            let verdict = asked.unwrap_err().verdict(true);
            assert!(matches!(verdict, SendError::Unsendable(_)), "{verdict}");
        }
        let asked = ask(client.post(url), Timestamp::from_micros(0)).await;
        let verdict = asked.unwrap_err().verdict(true);
        assert!(
            matches!(
                verdict,
                SendError::Later {
                    holds_all: true,
                    ..
                }
            ),
            "{verdict}"
        );
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = Timestamp::parse("2026-02-03T04:05:06Z").unwrap();
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        let date = "Tue, 03 Feb 2026 04:05:36 GMT";
        assert_eq!(read(date), Some(Duration::from_secs(30)));
        let past = "Tue, 03 Feb 2026 04:05:00 GMT";
        assert_eq!(read(past), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
        assert_eq!(read(&u64::MAX.to_string()), Some(MAX_RETRY_AFTER));
        let far = "Fri, 31 Dec 9999 23:59:59 GMT";
        assert_eq!(read(far), Some(MAX_RETRY_AFTER));
    }
}
