//! A stand-in for a push service: HTTP/2 over TLS, as with the real ones.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::web::Bytes;
use parking_lot::Mutex;
use serde_json::Value as Json;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
use ureq::http;

use super::certificates;
use crate::support::eventually;

/// A request as received.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the client has sent a certificate that the authority signed.
    pub has_certificate: bool,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or(Json::Null)
    }
}

/// What the service does with a request.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Cuts the connection instead.
    pub cuts: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub fn json(status: u16, body: &Json) -> Self {
        Self {
            status,
            body: body.to_string().into_bytes(),
            ..Self::default()
        }
    }

    pub fn cut() -> Self {
        Self {
            cuts: true,
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

type Judge = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// See the module's overview.
pub struct Service {
    pub address: SocketAddr,
    state: Arc<State>,
    _runtime: Runtime,
}

struct State {
    judge: Judge,
    tls: TlsAcceptor,
    received: Mutex<Vec<(Received, u16)>>,
    scripted: Mutex<VecDeque<Reply>>,
    num_connections: AtomicUsize,
    /// How long a request is held, so that others arrive meanwhile.
    pause: Mutex<Duration>,
}

impl Service {
    /// Starts a service that answers as `judge` says.
    pub fn start(judge: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            judge: Arc::new(judge),
            tls: TlsAcceptor::from(Arc::new(tls())),
            received: Mutex::default(),
            scripted: Mutex::default(),
            num_connections: AtomicUsize::new(0),
            pause: Mutex::default(),
        });
        let accepting = Arc::clone(&state);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&accepting);
                spawn(async move { serve(state, stream).await });
            }
        });
        Self {
            address,
            state,
            _runtime: runtime,
        }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Sets the next answers, whatever `judge` would say.
    pub fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.scripted.lock().extend(replies);
    }

    pub fn set_pause(&self, pause: Duration) {
        *self.state.pause.lock() = pause;
    }

    /// Returns all requests so far, with the status of the answer; 0 if there was none.
    pub fn received(&self) -> Vec<(Received, u16)> {
        self.state.received.lock().clone()
    }

    /// Waits until `count` requests were answered with a status.
    pub fn await_answers(&self, status: u16, count: usize) -> Vec<Received> {
        eventually(&format!("{count} answers with {status}"), || {
            let received = self.received();
            let with_it = received.into_iter().filter(|(_, given)| *given == status);
            let with_it: Vec<_> = with_it.map(|(request, _)| request).collect();
            (with_it.len() >= count).then_some(with_it)
        })
    }

    pub fn num_connections(&self) -> usize {
        self.state.num_connections.load(Ordering::Relaxed)
    }
}

fn tls() -> ServerConfig {
    let provider = Arc::new(crypto::ring::default_provider());
    let certificates = |name: &str| -> Vec<CertificateDer<'static>> {
        let path = certificates::path(name);
        let read = CertificateDer::pem_file_iter(path).unwrap();
        read.collect::<Result<_, _>>().unwrap()
    };
    let mut authorities = RootCertStore::empty();
    for authority in certificates("ca.pem") {
        authorities.add(authority).unwrap();
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
    let key = PrivateKeyDer::from_pem_file(certificates::path("server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates("server.pem"), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Serves one connection; cuts one that does not speak HTTP/2 over TLS.
async fn serve(state: Arc<State>, stream: TcpStream) {
    let Ok(stream) = state.tls.accept(stream).await else {
        return;
    };
    let session = stream.get_ref().1;
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    let has_certificate = session.peer_certificates().is_some();
    state.num_connections.fetch_add(1, Ordering::Relaxed);
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let (cut, mut is_cut) = tokio::sync::watch::channel(false);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            _ = is_cut.changed() => return,
        };
        let Some(Ok((request, respond))) = accepted else {
            return;
        };
        let (state, cut) = (Arc::clone(&state), cut.clone());
        spawn(async move {
            if !answer(state, request, respond, has_certificate).await {
                let _ = cut.send(true);
            }
        });
    }
}

/// Answers one request; returns whether the connection continues.
async fn answer(
    state: Arc<State>,
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    has_certificate: bool,
) -> bool {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(Ok(chunk)) = stream.data().await {
        let _ = stream.flow_control().release_capacity(chunk.len());
        body.extend_from_slice(&chunk);
    }
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let headers = head.headers.iter();
    let received = Received {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body,
        has_certificate,
    };
    let pause = *state.pause.lock();
    tokio::time::sleep(pause).await;
    let scripted = state.scripted.lock().pop_front();
    let reply = scripted.unwrap_or_else(|| (state.judge)(&received));
    if reply.cuts {
        state.received.lock().push((received, 0));
        return false;
    }
    let mut response = http::Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let response = response.body(()).unwrap();
    state.received.lock().push((received, reply.status));
    if let Ok(mut stream) = respond.send_response(response, false) {
        let _ = stream.send_data(reply.body.into(), true);
    }
    true
}

#[expect(
    clippy::disallowed_methods,
    reason = "ends with the runtime of the service"
)]
fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}
