//! Where a request came from.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use actix_web::HttpRequest;
use ipnet::IpNet;

/// Where a request came from, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// The other end of the connection; `None` for calls by plugins.
    pub peer: Option<SocketAddr>,
    /// The client: the peer, or the address that trusted proxies report.
    pub client: Option<IpAddr>,
    /// Reported by proxies: `X-Forwarded-For`.
    pub forwarded_for: String,
    /// Reported by proxies: `X-Real-IP`.
    pub real_ip: String,
    /// Reported by proxies: `Forwarded`.
    pub forwarded: String,
}

impl Remote {
    /// Finds out where a request came from.
    pub fn of(request: &HttpRequest, proxies: &Proxies) -> Self {
        // A proxy can add a line of its own instead of extending the client's.
        let shown = |name: &str| lines(request, name).join(", ");
        Self {
            peer: request.peer_addr().map(canonical),
            client: proxies.client_of(request),
            forwarded_for: shown("x-forwarded-for"),
            real_ip: shown("x-real-ip"),
            forwarded: shown("forwarded"),
        }
    }

    /// Returns what identifies the client, as [`host_of`]; empty if the client is not known.
    pub fn host(&self) -> String {
        let host = self.client.map(host_of);
        host.map(|host| host.to_string()).unwrap_or_default()
    }
}

/// Returns a header's lines. Bytes that are not UTF-8 are replaced: a client that sends some must not
/// hide what a proxy adds to the same line.
fn lines<'a>(request: &'a HttpRequest, name: &str) -> Vec<Cow<'a, str>> {
    let lines = request.headers().get_all(name);
    lines
        .map(|line| String::from_utf8_lossy(line.as_bytes()))
        .collect()
}

/// Converts an IPv4 peer to an IPv4 address even if it arrived at a dual-stack socket.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// Returns what identifies a client: its IPv4 address, or its IPv6 network (/64), within which it
/// can use any address.
pub fn host_of(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// The proxies that are trusted to report where a request came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Returns the address of the client that sent a request: the other end of the connection or,
    /// for a request that came by trusted proxies, the last address in `X-Forwarded-For` that is
    /// not one of theirs.
    ///
    /// Anyone could have written the addresses before that.
    pub fn client_of(&self, request: &HttpRequest) -> Option<IpAddr> {
        let peer = request.peer_addr()?.ip().to_canonical();
        Some(self.client_behind(peer, &lines(request, "x-forwarded-for")))
    }

    fn client_behind(&self, peer: IpAddr, lines: &[impl AsRef<str>]) -> IpAddr {
        let named = lines.iter().rev();
        let named = named.flat_map(|line| line.as_ref().rsplit(','));
        let mut client = peer;
        for name in named {
            let Some(address) = read(name).filter(|_| self.trust(client)) else {
                break;
            };
            client = address;
        }
        client
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&address))
    }
}

impl FromStr for Proxies {
    type Err = ipnet::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(str::trim);
        let nets = names.filter(|name| !name.is_empty()).map(|name| {
            let one = name
                .parse()
                .map(|it: IpAddr| IpNet::from(it.to_canonical()));
            one.or_else(|_| name.parse())
        });
        nets.collect::<Result<_, _>>().map(Self)
    }
}

/// Parses an address in the forms that proxies write: with or without a port.
fn read(name: &str) -> Option<IpAddr> {
    let name = name.trim();
    let with_port = || name.parse::<SocketAddr>().ok().map(|it| it.ip());
    let bare = || name.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = name.parse().ok().or_else(with_port).or_else(bare)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn bytes_that_are_no_text_hide_nothing() {
        let proxies: Proxies = "192.0.2.1".parse().unwrap();
        for (bytes, shown) in [
            (&b"\xe9, 198.51.100.1"[..], "\u{fffd}, 198.51.100.1"),
            ("\u{e9}, 198.51.100.1".as_bytes(), "\u{e9}, 198.51.100.1"),
        ] {
            let peer = "192.0.2.1:4711".parse().unwrap();
            let request = TestRequest::get().peer_addr(peer);
            let value = HeaderValue::from_bytes(bytes).unwrap();
            let request = request.insert_header(("x-forwarded-for", value));
            let remote = Remote::of(&request.to_http_request(), &proxies);
            assert_eq!(remote.client, Some("198.51.100.1".parse().unwrap()));
            assert_eq!(remote.forwarded_for, shown);
        }
    }

    #[test]
    fn a_peer_of_version_4_is_one_at_a_socket_of_both() {
        let peer = "[::ffff:192.0.2.1]:4711".parse().unwrap();
        let request = TestRequest::get().peer_addr(peer).to_http_request();
        let remote = Remote::of(&request, &Proxies::default());
        assert_eq!(remote.peer.unwrap().to_string(), "192.0.2.1:4711");
        assert_eq!(remote.host(), "192.0.2.1");
    }

    #[test]
    fn the_client_is_the_last_whom_no_trusted_proxy_is() {
        let proxies: Proxies = "10.0.0.0/8, 192.0.2.7,fd00::/8".parse().unwrap();
        let cases = [
            // No trusted proxy: the header could have been written by anyone.
            ("203.0.113.5", vec!["198.51.100.1"], "203.0.113.5"),
            ("10.1.1.1", vec![], "10.1.1.1"),
            ("10.1.1.1", vec!["198.51.100.1"], "198.51.100.1"),
            ("10.1.1.1", vec!["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            (
                "10.1.1.1",
                vec!["1.1.1.1", "198.51.100.1,192.0.2.7 "],
                "198.51.100.1",
            ),
            (
                "fd00::1",
                vec!["[2001:db8::1]:4711, 10.2.2.2:80"],
                "2001:db8::1",
            ),
            ("10.1.1.1", vec!["1.1.1.1, who knows"], "10.1.1.1"),
            (
                "10.1.1.1",
                vec!["1.1.1.1, ::ffff:198.51.100.1"],
                "198.51.100.1",
            ),
        ];
        for (peer, lines, expected) in cases {
            let client = proxies.client_behind(peer.parse().unwrap(), &lines);
            assert_eq!(client.to_string(), expected, "{peer} {lines:?}");
        }
        assert!("10.0.0.0/40".parse::<Proxies>().is_err());
    }
}
