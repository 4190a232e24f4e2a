//! The transport `http`: a POST for each request.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use skytrail_actors::plugin::TransportKind;
use skytrail_actors::plugin::protocol::Outcome;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::transport::{Answer, Envelope, Transport, failure, unparsed, unparsed_text};
use crate::causes::chain;
use crate::tls::use_ring;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next request: less than the five seconds after which
/// Node's server hangs up, so that no request meets a connection that is being closed.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// A plugin that accepts HTTP requests. The status and headers of its answers mean nothing.
pub(super) struct Http {
    plugin: String,
    client: Client,
    url: Url,
    window: u64,
    max_answer: usize,
}

impl Http {
    /// Creates the transport.
    ///
    /// # Errors
    /// The address is invalid.
    pub(super) fn new(
        plugin: &str,
        (url, window): (&str, u64),
        max_answer: usize,
    ) -> Result<Self, String> {
        use_ring();
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(KEEP_ALIVE)
            .redirect(Policy::none())
            .no_proxy()
            .build()
            .map_err(text_of)?;
        let url: Url = url
            .parse()
            .map_err(|error| format!("the address is not valid: {error}"))?;
        Ok(Self {
            plugin: plugin.to_owned(),
            client,
            url,
            window,
            max_answer,
        })
    }

    /// Returns whether the plugin listens after it left a request unanswered.
    ///
    /// A process that has ended does not listen, and a new one may be there before it is asked
    /// again.
    async fn is_there(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        let port = self.url.port_or_known_default().unwrap_or_default();
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await;
        matches!(connected, Ok(Ok(_)))
    }

    /// Reads the answer as it arrives; `None` when it is too long.
    async fn read(&self, mut response: Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if bytes.len() + chunk.len() > self.max_answer {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// Reads an answer. An invalid one may come from a proxy in front of the plugin, which then
    /// has said nothing.
    fn outcome(&self, envelope: &Envelope, answer: &[u8]) -> Outcome {
        let read = envelope.read_or_log(&self.plugin, answer);
        read.unwrap_or_else(|why| unread(&why))
    }
}

#[async_trait]
impl Transport for Http {
    fn kind(&self) -> TransportKind {
        TransportKind::Http
    }

    fn window(&self) -> u64 {
        self.window
    }

    async fn request(&self, envelope: &Envelope) -> Answer {
        let body = match envelope.to_json() {
            Ok(body) => body,
            Err(error) => return Answer::Given(unparsed(&error.to_string())),
        };
        let request = self.client.post(self.url.clone()).body(body);
        let sent = request.header(CONTENT_TYPE, "application/json").send();
        let read = async { self.read(sent.await?).await };
        match read.await {
            Ok(Some(bytes)) => Answer::Given(self.outcome(envelope, &bytes)),
            Ok(None) => Answer::Given(unread(&format!("more than {} bytes", self.max_answer))),
            Err(error) if error.is_connect() => Answer::NotThere(text_of(error)),
            Err(error) => Answer::Lost {
                why: text_of(error),
                is_gone: !self.is_there().await,
            },
        }
    }
}

/// Returns the error of an unreadable answer: deliveries are then retried.
fn unread(why: &str) -> Outcome {
    failure(&unparsed_text(why))
}

/// Returns an error with its causes, which the library's own text lacks. Clients are told this
/// text, so it has no address, which may contain a token or a password.
fn text_of(error: reqwest::Error) -> String {
    chain(&error.without_url())
}
