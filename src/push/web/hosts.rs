//! Which browsers' push services the server sends to.

use reqwest::Url;

/// The services of today's browsers.
const KNOWN: &str = "fcm.googleapis.com, *.push.services.mozilla.com, *.push.apple.com, \
                     *.notify.windows.com";

/// A list of hosts, such as `push.example.com`, `*.example.com` or `127.0.0.1:8443`; the default
/// port is 443.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// The default list.
    pub const KNOWN: &'static str = KNOWN;

    /// Builds a list.
    pub fn new(hosts: Vec<String>) -> Self {
        let lower = hosts.into_iter().map(|host| host.to_ascii_lowercase());
        Self(lower.collect())
    }

    /// Returns whether an address is at one of the hosts.
    pub fn admit(&self, url: &Url) -> bool {
        let Some(place) = place(url) else {
            return false;
        };
        self.0
            .iter()
            .any(|allowed| match allowed.strip_prefix('*') {
                Some("") => true,
                Some(end) => {
                    place.len() > end.len() && place.ends_with(end) && end.starts_with('.')
                }
                None => *allowed == place,
            })
    }
}

/// Returns the host of an address, with its port if that is not the usual one.
pub(super) fn place(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_on_the_list_are_admitted() {
        let list = |text: &str| Hosts::new(text.split(',').map(|it| it.trim().into()).collect());
        let admits = |hosts: &Hosts, url: &str| hosts.admit(&Url::parse(url).unwrap());
        let known = list(Hosts::KNOWN);
        for url in [
            "https://fcm.googleapis.com/fcm/send/x",
            "https://FCM.googleapis.com:443/x",
            "https://updates.push.services.mozilla.com/wpush/v2/x",
            "https://wns2-by3p.notify.windows.com/w/?token=x",
        ] {
            assert!(admits(&known, url), "{url}");
        }
        for url in [
            "https://localhost/x",
            "https://169.254.169.254/x",
            "https://fcm.googleapis.com.evil.example/x",
            "https://fcm.googleapis.com:8443/x",
            "https://push.services.mozilla.com/x",
            "https://evilpush.apple.com/x",
            "https://evil.example/fcm.googleapis.com",
        ] {
            assert!(!admits(&known, url), "{url}");
        }
        assert!(admits(&list("127.0.0.1:8443"), "https://127.0.0.1:8443/x"));
        assert!(admits(&list("*"), "https://push.example/x"));
    }
}
