//! The key and the token that a request shows: in its head, else in the query of its address, else
//! in its body. The route decides which of these count. An empty string counts as absent.

use actix_web::{HttpRequest, web};
use serde_json::{Map, Value as Json};

/// A credential, by the names under which it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    header: &'static str,
    member: &'static str,
}

/// The app's key, or the master key.
pub(super) const KEY: Proof = Proof {
    header: "x-skygear-api-key",
    member: "api_key",
};

/// A user's access token.
pub(super) const TOKEN: Proof = Proof {
    header: "x-skygear-access-token",
    member: "access_token",
};

/// Names the user whose rights alone a request with the master key has. In a body, `_rights` and
/// `_user_id` say the same.
const RIGHTS_OF: &str = "x-skygear-rights-of";

/// What a request shows of who asks.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The key.
    pub key: Option<String>,
    /// The token.
    pub token: Option<String>,
    /// The user whose rights alone it has, from its head.
    pub rights_of: Option<String>,
}

impl Shown {
    /// Adds the user whose rights alone a request has to its key and token. A header that makes no
    /// sense is not left out: the request would get the rights of its key.
    pub(super) fn of(request: &HttpRequest, key: Option<String>, token: Option<String>) -> Self {
        let named = request.headers().get(RIGHTS_OF);
        let rights_of = named.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        Self {
            key,
            token,
            rights_of,
        }
    }
}

impl Proof {
    /// Returns the header's name.
    pub(super) fn header(self) -> &'static str {
        self.header
    }

    /// Reads the credential from the head.
    pub(super) fn in_head(self, request: &HttpRequest) -> Option<String> {
        let shown = request.headers().get(self.header)?.to_str().ok()?;
        Some(shown.to_owned()).filter(|shown| !shown.is_empty())
    }

    /// Reads the credential from the head, else from the query.
    pub(super) fn in_head_or_query(self, request: &HttpRequest) -> Option<String> {
        let in_query = || query_value(request.query_string(), self.member);
        self.in_head(request).or_else(in_query)
    }

    /// Reads the credential from the head, else from the query, else from the body.
    pub(super) fn anywhere(
        self,
        request: &HttpRequest,
        body: &Map<String, Json>,
    ) -> Option<String> {
        let in_body = || body.get(self.member)?.as_str().map(str::to_owned);
        self.in_head_or_query(request).or_else(in_body)
    }
}

/// Returns a parameter of the query.
pub(super) fn query_value(query: &str, name: &str) -> Option<String> {
    let pairs = web::Query::<Vec<(String, String)>>::from_query(query).ok()?;
    let mut pairs = pairs.into_inner().into_iter();
    pairs
        .find(|(known, _)| known == name)
        .map(|(_, value)| value)
}
