//! The client of an S3 bucket, for files and for backups.
//!
//! A request to a service that stays silent is given up. A request that sends data gets more time,
//! depending on its size: the service answers only when it has received everything, and an uplink
//! may be slow.

use std::error::Error;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::{ClientOptions, RetryConfig};
use tokio::time::timeout;

use crate::causes::chain;
use crate::config::S3Settings;
use crate::tls::use_ring;

/// How often a request is retried.
const MAX_RETRIES: usize = 3;

/// How long to wait for a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// How long it may stay silent.
    silence: Duration,
    /// The slowest rate at which a request may be sent, in bytes per second.
    slowest: u64,
    /// How long after its start a request can be retried.
    retry: Duration,
}

impl Timeouts {
    /// For files: a client waits for an answer.
    pub(crate) const FOR_FILES: Self = Self {
        silence: Duration::from_secs(30),
        slowest: 16 << 10,
        retry: Duration::from_secs(30),
    };
    /// For backups: retries go on for longer, because a failed copy must be repeated. Signatures
    /// stay valid for longer than that.
    pub(crate) const FOR_BACKUPS: Self = Self {
        retry: Duration::from_secs(300),
        ..Self::FOR_FILES
    };

    fn to_send(self, num_bytes: usize) -> Duration {
        let num_bytes = u64::try_from(num_bytes).unwrap_or(u64::MAX);
        self.silence + Duration::from_secs(num_bytes / self.slowest.max(1))
    }
}

/// Builds the client of a bucket; no request is sent yet.
pub(crate) fn bucket(settings: &S3Settings, timeouts: Timeouts) -> object_store::Result<AmazonS3> {
    use_ring();
    let client = ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout(timeouts.silence)
        .with_connect_timeout(timeouts.silence);
    let retry = RetryConfig {
        max_retries: MAX_RETRIES,
        retry_timeout: timeouts.retry,
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&settings.bucket)
        .with_region(&settings.region)
        .with_access_key_id(&settings.access_key)
        .with_secret_access_key(settings.secret_key.reveal())
        .with_http_connector(Connector(timeouts))
        .with_client_options(client)
        .with_retry(retry);
    if let Some(endpoint) = &settings.endpoint {
        let is_plain = endpoint.starts_with("http://");
        builder = builder.with_endpoint(endpoint).with_allow_http(is_plain);
    }
    builder.build()
}

#[derive(Debug)]
struct Connector(Timeouts);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let connector = ReqwestConnector::default();
        // A read timeout starts with the first byte sent, even while more is being sent.
        let sending = options.clone().with_read_timeout_disabled();
        Ok(HttpClient::new(Service {
            asking: connector.connect(options)?,
            sending: connector.connect(&sending)?,
            timeouts: self.0,
        }))
    }
}

/// Sends requests to a bucket; those with a body use a client of their own.
#[derive(Debug)]
struct Service {
    asking: HttpClient,
    sending: HttpClient,
    timeouts: Timeouts,
}

impl Service {
    async fn send(
        &self,
        request: HttpRequest,
        num_bytes: usize,
    ) -> Result<HttpResponse, HttpError> {
        let limit = self.timeouts.to_send(num_bytes);
        let sent = timeout(limit, async {
            let (head, body) = self.sending.execute(request).await?.into_parts();
            // The answer is short, and has no other time limit.
            let body = body.bytes().await?;
            Ok(HttpResponse::from_parts(head, body.into()))
        });
        sent.await.unwrap_or_else(|_| {
            let text = format!("timed out while sending {num_bytes} bytes (limit {limit:?})");
            let error = io::Error::new(io::ErrorKind::TimedOut, text);
            Err(HttpError::new(HttpErrorKind::Timeout, error))
        })
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = match request.body().content_length() {
            0 => self.asking.execute(request).await,
            num_bytes => self.send(request, num_bytes).await,
        };
        answer.map_err(with_causes)
    }
}

/// Adds an error's causes to its text: callers show only the first cause, "error sending request".
fn with_causes(error: HttpError) -> HttpError {
    let causes = error.source().map(chain).unwrap_or_default();
    HttpError::new(error.kind(), io::Error::other(causes))
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;
    use object_store::{ObjectStoreExt as _, PutPayload};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;

    use super::*;
    use crate::config::Secret;

    const SILENCE: Duration = Duration::from_millis(100);
    const NUM_BYTES: usize = 1 << 20;

    fn timeouts(slowest: u64) -> Timeouts {
        Timeouts {
            silence: SILENCE,
            slowest,
            retry: SILENCE,
        }
    }

    fn client(listener: &TcpListener, timeouts: Timeouts) -> AmazonS3 {
        let settings = S3Settings {
            bucket: "things".to_owned(),
            region: "us-east-1".to_owned(),
            access_key: "key".to_owned(),
            secret_key: Secret::new("hidden"),
            url_prefix: None,
            endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
        };
        bucket(&settings, timeouts).unwrap()
    }

    async fn read_head(stream: &mut BufReader<TcpStream>) {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
        }
    }

    /// Reads the body of the first request when it is allowed to; no other request is answered.
    async fn hold(listener: TcpListener, has_begun: &Notify, may_go_on: &Notify) {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        read_head(&mut stream).await;
        has_begun.notify_one();
        may_go_on.notified().await;
        stream.read_exact(&mut vec![0; NUM_BYTES]).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    }

    /// A request made during the upload times out before it ends, so the upload took longer than
    /// the limit for silence.
    #[tokio::test]
    async fn a_slow_upload_takes_longer_than_a_silence_may() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bucket = client(&listener, timeouts(1));
        let (has_begun, may_go_on) = (Notify::new(), Notify::new());
        let path = Path::from("large");
        let put = bucket.put(&path, PutPayload::from(vec![0; NUM_BYTES]));
        let ask = async {
            has_begun.notified().await;
            let refused = bucket.get(&Path::from("small")).await;
            may_go_on.notify_one();
            refused
        };
        let all = futures_util::future::join3(put, ask, hold(listener, &has_begun, &may_go_on));
        let (put, result, ()) = all.await;
        assert!(put.is_ok(), "{put:?}");
        let error = result.unwrap_err().to_string();
        assert!(error.contains("timed out"), "{error}");
    }

    #[tokio::test]
    async fn a_service_that_takes_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bucket = client(&listener, timeouts(u64::MAX));
        let path = Path::from("large");
        let put = bucket.put(&path, PutPayload::from(vec![0; NUM_BYTES]));
        let error = put.await.unwrap_err().to_string();
        let expected = format!("timed out while sending {NUM_BYTES} bytes");
        assert!(error.contains(&expected), "{error}");
    }

    #[tokio::test]
    async fn a_download_that_stops_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bucket = client(&listener, timeouts(1));
        let begin = async {
            let mut streams = Vec::new();
            loop {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                read_head(&mut stream).await;
                let answer = b"HTTP/1.1 200 OK\r\nETag: \"e\"\r\n\
                    Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 9\r\n\r\nhalf";
                stream.write_all(answer).await.unwrap();
                streams.push(stream);
            }
        };
        let got = async { bucket.get(&Path::from("file")).await?.bytes().await };
        tokio::select! {
            got = got => assert!(got.is_err(), "{got:?}"),
            () = begin => {}
        }
    }
}
