//! A WebSocket client that never waits for ever.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

/// What was received.
#[derive(Debug)]
pub enum Incoming {
    Text(String),
    Closed,
    Nothing,
}

pub struct Socket {
    inner: WebSocket<TcpStream>,
    close_reason: Option<(u16, String)>,
}

impl Socket {
    /// Opens a socket; for any answer other than an upgrade, returns its status and body.
    pub fn open(
        address: &str,
        path: &str,
        headers: &[(String, String)],
    ) -> Result<Self, (u16, Vec<u8>)> {
        let mut request = format!("ws://{address}{path}")
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request
                .headers_mut()
                .insert(name, HeaderValue::from_str(value).unwrap());
        }
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        match client(request, stream) {
            Ok((inner, _)) => Ok(Self {
                inner,
                close_reason: None,
            }),
            Err(tokio_tungstenite::tungstenite::HandshakeError::Failure(Error::Http(response))) => {
                let status = response.status().as_u16();
                Err((status, response.into_body().unwrap_or_default()))
            }
            Err(other) => panic!("handshake: {other}"),
        }
    }

    pub fn send(&mut self, text: &str) {
        self.inner.send(Message::text(text)).unwrap();
    }

    /// Waits for the next text or the end, at most for `timeout`.
    pub fn receive(&mut self, timeout: Duration) -> Incoming {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Incoming::Nothing;
            }
            self.inner.get_ref().set_read_timeout(Some(left)).unwrap();
            match self.inner.read() {
                Ok(Message::Text(text)) => return Incoming::Text(text.to_string()),
                Ok(Message::Close(reason)) => {
                    let said = |it: CloseFrame| (u16::from(it.code), it.reason.to_string());
                    self.close_reason = reason.map(said);
                    return Incoming::Closed;
                }
                Ok(_) => {}
                Err(Error::Io(error))
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => return Incoming::Closed,
            }
        }
    }

    /// Returns the code and text of the received close frame, if it had any.
    pub fn close_reason(&self) -> Option<(u16, String)> {
        self.close_reason.clone()
    }

    pub fn close(&mut self) {
        let _ = self.inner.close(None);
        let _ = self.inner.flush();
    }
}
