//! Who may call from another page: `CORS_HOST`, and the headers of an answer that follow from it.

use std::str::FromStr;

use actix_web::http::Uri;
use actix_web::http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, HOST, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use skytrail_schema::code::{ApiError, Code};

use super::body::is_websocket;
use super::shown;

/// The headers that a page of another origin may read, in addition to those that browsers always
/// allow.
const EXPOSED: &str = "Content-Range, Retry-After, X-Skygear-Request-Id";

/// The origins of pages that are files, of web views on phones, and of sandboxed frames.
const ORIGINS_WITHOUT_HOST: [&str; 2] = ["file://", "null"];

/// The origins that may call according to CORS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All origins.
    Any,
    /// One origin, which every answer names.
    One(HeaderValue),
    /// Several origins: an answer names the one that asks.
    Several(Vec<HeaderValue>),
}

impl Origins {
    /// Adds headers that tell the browser whether the page that sent `headers` may read the answer.
    pub(super) fn allow(&self, headers: &HeaderMap, out: &mut HeaderMap) {
        let origin = match self {
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::One(origin) => Some(origin.clone()),
            Self::Several(origins) => {
                out.append(VARY, HeaderValue::from_static("Origin"));
                let asks = headers.get(ORIGIN);
                asks.filter(|asks| origins.contains(asks)).cloned()
            }
        };
        let Some(origin) = origin else { return };
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        out.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
        if headers.contains_key(ORIGIN) {
            out.insert(
                ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static(EXPOSED),
            );
        }
    }

    /// Refuses a WebSocket to a page that may not call. Browsers let any page open one and read
    /// from it, whatever the answer says.
    ///
    /// # Errors
    /// 102: the page is neither of these origins nor of this server.
    pub(super) fn check_socket(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(asks) = headers.get(ORIGIN).filter(|_| is_page_socket(headers)) else {
            return Ok(());
        };
        let is_named = match self {
            Self::Any => true,
            Self::One(origin) => origin == asks,
            Self::Several(origins) => origins.contains(asks),
        };
        if is_named || is_same_origin(headers) {
            return Ok(());
        }
        let asks = String::from_utf8_lossy(asks.as_bytes());
        let message = format!(
            "pages from {asks:?} may not open a WebSocket here: CORS_HOST does not name them"
        );
        Err(ApiError::new(Code::PermissionDenied, message))
    }
}

/// Returns whether a page asks for a WebSocket. A client that names no page is not a browser, and
/// neither is one that sends its key in a header, which no page can do: v1's iOS SDK sends both.
pub(super) fn is_page_socket(headers: &HeaderMap) -> bool {
    is_websocket(headers) && headers.contains_key(ORIGIN) && shows_no_key(headers)
}

/// Returns whether a request may be that of a page's `EventSource`: it asks for events, and sends no
/// key in a header.
pub(super) fn is_event_source(headers: &HeaderMap) -> bool {
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accepts.is_some_and(|accepts| accepts.contains("text/event-stream")) && shows_no_key(headers)
}

fn shows_no_key(headers: &HeaderMap) -> bool {
    !headers.contains_key(shown::KEY.header())
}

/// Returns whether the page that a browser acts for belongs to this server.
pub fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (origin, host) = (text(ORIGIN), text(HOST));
    is_same_host(origin.unwrap_or_default(), host.unwrap_or_default())
}

fn is_same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => return false,
    };
    let bare = |name: &str| {
        let name = name.trim_end_matches('/').to_ascii_lowercase();
        name.strip_suffix(default_port)
            .map_or(name.clone(), str::to_owned)
    };
    !host.is_empty() && bare(rest) == bare(host)
}

/// A string that no browser sends as an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoOrigin(pub String);

/// Parses `*`, or origins separated by commas. Browsers compare them as strings, so one that no
/// browser sends would never match.
impl FromStr for Origins {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let origins = text.split(',').map(str::trim).map(origin);
        let origins: Vec<_> = origins.collect::<Result<_, _>>()?;
        match <[HeaderValue; 1]>::try_from(origins) {
            Ok([origin]) => Ok(Self::One(origin)),
            Err(origins) => Ok(Self::Several(origins)),
        }
    }
}

fn origin(text: &str) -> Result<HeaderValue, NoOrigin> {
    let is_as_sent = ORIGINS_WITHOUT_HOST.contains(&text) || is_of_host(text);
    let value = HeaderValue::from_str(text).ok().filter(|_| is_as_sent);
    value.ok_or_else(|| NoOrigin(text.to_owned()))
}

fn is_of_host(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let written = uri.scheme_str().zip(uri.authority());
    let is_as_sent = |(scheme, authority)| {
        // Browsers send file origins without a host.
        scheme != "file" && format!("{scheme}://{authority}") == text
    };
    written.is_some_and(is_as_sent)
        && !text.contains(['@', '*'])
        && !text.contains(|letter: char| letter.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(setting: &str, asks: &str) -> (Option<String>, bool) {
        let origins: Origins = setting.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_str(asks).unwrap());
        let mut out = HeaderMap::new();
        origins.allow(&headers, &mut out);
        let origin = out.get(ACCESS_CONTROL_ALLOW_ORIGIN);
        let origin = origin.map(|origin| origin.to_str().unwrap().to_owned());
        assert_eq!(
            origin.is_some(),
            out.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS)
        );
        (origin, out.contains_key(VARY))
    }

    #[test]
    fn an_answer_names_one_origin() {
        let (a, b) = ("https://a.example", "http://127.0.0.1:4160");
        let both = format!("{a}, {b}");
        assert_eq!(allowed("*", a), (Some("*".to_owned()), false));
        assert_eq!(allowed(a, b), (Some(a.to_owned()), false));
        assert_eq!(allowed(&both, a), (Some(a.to_owned()), true));
        assert_eq!(allowed(&both, b), (Some(b.to_owned()), true));
        assert_eq!(allowed(&both, "https://c.example"), (None, true));
    }

    #[test]
    fn what_no_browser_sends_is_no_origin() {
        for wrong in [
            "",
            "a.example",
            "https://a.example/",
            "https://a.example/app",
            "https://a.example,",
            "https://*",
            "*, https://a.example",
            "https://A.example",
            "HTTPS://a.example",
            "https://me@a.example",
            "https://a.example https://b.example",
            "file:",
            "file:///",
            "file://host",
            "FILE://",
            "Null",
        ] {
            assert!(wrong.parse::<Origins>().is_err(), "{wrong}");
        }
        let many = "https://a.example, file:///app,null".parse::<Origins>();
        assert_eq!(many, Err(NoOrigin("file:///app".to_owned())));
        assert!("file://,null".parse::<Origins>().is_ok());
        assert!("http://[::1]:80".parse::<Origins>().is_ok());
        assert!("capacitor://localhost".parse::<Origins>().is_ok());
    }

    #[test]
    fn only_the_servers_own_pages_are_its_pages() {
        let same = [
            ("http://127.0.0.1:3000", "127.0.0.1:3000"),
            ("http://Example.com", "example.com"),
            ("https://example.com:443", "example.com"),
            ("ws://example.com:80/", "example.com"),
        ];
        for (origin, host) in same {
            assert!(is_same_host(origin, host), "{origin} {host}");
        }
        let foreign = [
            ("http://evil.com", "example.com"),
            ("http://example.com:8080", "example.com"),
            ("http://example.com.evil.com", "example.com"),
            ("null", "example.com"),
            ("file://", ""),
            ("http://", ""),
        ];
        for (origin, host) in foreign {
            assert!(!is_same_host(origin, host), "{origin} {host}");
        }
    }
}
