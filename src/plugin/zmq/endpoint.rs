//! Where workers connect: addresses in ZeroMQ's notation.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// An address to bind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `tcp://host:port`; the host `*` means every address of the machine.
    Tcp(String),
    /// `ipc:///path`, a socket in the file system.
    Ipc(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

impl Endpoint {
    /// Parses an address.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("ipc://") {
            let is_path = !path.is_empty() && !path.starts_with('@');
            return is_path.then(|| Self::Ipc(path.into()));
        }
        let (host, port) = text.strip_prefix("tcp://")?.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let host = if host == "*" { "0.0.0.0" } else { host };
        (!host.is_empty()).then(|| Self::Tcp(format!("{host}:{port}")))
    }

    /// Starts listening, on the caller's runtime.
    ///
    /// # Errors
    /// The address is in use, not this machine's, or not allowed.
    pub(super) fn bind(&self) -> Result<Listener, Error> {
        match self {
            Self::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(TcpListener::from_std(listener)?))
            }
            Self::Ipc(path) => Ok(Listener::Ipc(bind_path(path)?, path.clone())),
        }
    }
}

/// Binds a path. A socket's file outlives its process, so a file without a listener is replaced.
fn bind_path(path: &Path) -> Result<UnixListener, Error> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let answer = std::os::unix::net::UnixStream::connect(path);
            if !answer.is_err_and(|refused| refused.kind() == ErrorKind::ConnectionRefused) {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// The connection of a worker.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A bound address.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Ipc(UnixListener, PathBuf),
}

impl Listener {
    /// Waits for the next connection.
    pub(super) async fn accept(&self) -> Result<Box<dyn Stream>, Error> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Ipc(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Returns the machine's address that workers connect to; `None` for a path.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(listener) => Some(listener.local_addr().ok()?.ip().to_canonical()),
            Self::Ipc(..) => None,
        }
    }

    /// Returns the address that workers connect to.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                let address = listener.local_addr().map(|address| address.to_string());
                format!("tcp://{}", address.unwrap_or_default())
            }
            Self::Ipc(_, path) => format!("ipc://{}", path.display()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Ipc(_, path) = self {
            // Another server may have removed it already; a file that stays does no harm.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_zeromq_writes_them() {
        let tcp = |address: &str| Some(Endpoint::Tcp(address.to_owned()));
        let cases = [
            ("tcp://127.0.0.1:5555", tcp("127.0.0.1:5555")),
            ("tcp://*:5555", tcp("0.0.0.0:5555")),
            ("tcp://[::1]:5555", tcp("[::1]:5555")),
            ("tcp://localhost:0", tcp("localhost:0")),
            ("ipc:///tmp/a b", Some(Endpoint::Ipc("/tmp/a b".into()))),
        ];
        for (text, expected) in cases {
            assert_eq!(Endpoint::parse(text), expected, "{text}");
        }
        let odd = [
            "",
            "tcp://",
            "tcp://:5555",
            "tcp://host",
            "tcp://host:port",
            "tcp://host:65536",
            "127.0.0.1:5555",
            "ipc://",
            "ipc://@name",
            "inproc://x",
            "pgm://x:1",
        ];
        for text in odd {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_file_that_nobody_listens_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Ipc(folder.path().join("socket"));
        let _first = endpoint.bind().unwrap();
        assert!(endpoint.bind().is_err());
        // As after a kill: the file stays, without a listener.
        let stale = folder.path().join("stale");
        drop(UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        let again = Endpoint::Ipc(stale.clone()).bind().unwrap();
        drop(again);
        assert!(!stale.exists());
    }
}
