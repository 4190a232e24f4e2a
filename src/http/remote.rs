//! Where a request came from.

use std::net::SocketAddr;

use actix_web::HttpRequest;

/// Where a request came from, as far as anybody says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// The other end of the connection; none for calls of plugins.
    pub peer: Option<SocketAddr>,
    /// What proxies say: `X-Forwarded-For`.
    pub forwarded_for: String,
    /// What proxies say: `X-Real-IP`.
    pub real_ip: String,
    /// What proxies say: `Forwarded`.
    pub forwarded: String,
}

impl Remote {
    /// Reads it from a request.
    pub fn of(request: &HttpRequest) -> Self {
        let shown = |name: &str| {
            let value = request.headers().get(name);
            let text = value.and_then(|value| value.to_str().ok());
            text.unwrap_or_default().to_owned()
        };
        Self {
            peer: request.peer_addr(),
            forwarded_for: shown("x-forwarded-for"),
            real_ip: shown("x-real-ip"),
            forwarded: shown("forwarded"),
        }
    }

    /// Returns the address of the other end without its port; empty when there is none.
    pub fn host(&self) -> String {
        self.peer
            .map_or_else(String::new, |peer| peer.ip().to_string())
    }
}
