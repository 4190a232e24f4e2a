//! A client of the API.

use serde_json::{Map, Value as Json, json};

use super::server::{API_KEY, MASTER_KEY, TestServer};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.bytes).unwrap_or(Json::Null)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Returns `result`; fails with the whole answer if there is none.
    pub fn result(&self) -> Json {
        let mut json = self.json();
        assert_eq!(self.status, 200, "{json}");
        json["result"].take()
    }

    /// Returns the error code, or 0 if there is no error.
    pub fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().unwrap_or(0)
    }
}

/// Sends one HTTP request and waits only for the head of its answer, whose body may never end.
pub fn status_of(method: &str, url: &str, headers: &[(String, String)]) -> u16 {
    let response = begin(method, url, headers, None);
    response.unwrap().status().as_u16()
}

fn begin(
    method: &str,
    url: &str,
    headers: &[(String, String)],
    body: Option<Vec<u8>>,
) -> Result<ureq::http::Response<ureq::Body>, String> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(std::time::Duration::from_secs(60)))
        .build();
    let agent: ureq::Agent = config.into();
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = match body {
        Some(body) => agent.run(request.body(body).map_err(|error| error.to_string())?),
        None => agent.run(request.body(()).map_err(|error| error.to_string())?),
    };
    response.map_err(|error| error.to_string())
}

/// Sends one HTTP request; every status counts as an answer.
pub fn send(
    method: &str,
    url: &str,
    headers: &[(String, String)],
    body: Option<Vec<u8>>,
) -> Result<Answer, String> {
    let mut response = begin(method, url, headers, body)?;
    let headers = response.headers().iter();
    let headers = headers
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into(),
            )
        })
        .collect();
    let status = response.status().as_u16();
    let bytes = response
        .body_mut()
        .with_config()
        .limit(256 << 20)
        .read_to_vec()
        .map_err(|error| error.to_string())?;
    Ok(Answer {
        status,
        headers,
        bytes,
    })
}

/// A caller of actions.
#[derive(Clone, Debug)]
pub struct Client {
    base_url: String,
    key: &'static str,
    pub token: Option<String>,
    pub user: Option<String>,
}

impl Client {
    /// A caller with the client key and no user.
    pub fn anonymous(server: &TestServer) -> Self {
        Self {
            base_url: server.base_url.clone(),
            key: API_KEY,
            token: None,
            user: None,
        }
    }

    /// A caller with the master key.
    pub fn master(server: &TestServer) -> Self {
        Self {
            key: MASTER_KEY,
            ..Self::anonymous(server)
        }
    }

    /// A caller with a new user.
    pub fn signed_up(server: &TestServer, username: &str) -> Self {
        let mut client = Self::anonymous(server);
        let auth_data = json!({"username": username});
        let body = json!({"auth_data": auth_data, "password": "secret-of-the-test"});
        let session = client.call("auth:signup", body).result();
        client.token = session["access_token"].as_str().map(str::to_owned);
        client.user = session["user_id"].as_str().map(str::to_owned);
        client
    }

    /// The key that it sends.
    pub fn key(&self) -> &str {
        self.key
    }

    /// The same caller, for a server whose address has changed.
    pub fn at(&self, server: &TestServer) -> Self {
        Self {
            base_url: server.base_url.clone(),
            ..self.clone()
        }
    }

    /// The same caller with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// The same key without a user.
    pub fn without_token(&self) -> Self {
        Self {
            token: None,
            ..self.clone()
        }
    }

    /// Calls an action; fails only when no answer arrives.
    pub fn call(&self, action: &str, payload: Json) -> Answer {
        self.try_call(action, payload)
            .unwrap_or_else(|error| panic!("{action}: {error}"))
    }

    /// Like [`Client::call`], for a server that may be down.
    pub fn try_call(&self, action: &str, payload: Json) -> Result<Answer, String> {
        let mut body: Map<String, Json> = payload.as_object().unwrap().clone();
        body.insert("action".into(), action.into());
        body.insert("api_key".into(), self.key.into());
        if let Some(token) = &self.token {
            body.insert("access_token".into(), token.clone().into());
        }
        let url = format!("{}/{}", self.base_url, action.replace(':', "/"));
        let headers = [("Content-Type".to_owned(), "application/json".to_owned())];
        send(
            "POST",
            &url,
            &headers,
            Some(serde_json::to_vec(&body).unwrap()),
        )
    }

    /// Asks for the health of the server's parts; needs the master key. Whatever is wrong, there is
    /// a reason.
    pub fn health(&self) -> Json {
        let url = format!("{}/_/health", self.base_url);
        let key = ("X-Skygear-API-Key".to_owned(), self.key.to_owned());
        let health = send("GET", &url, &[key], None).unwrap().json();
        let has_reasons = health["reasons"]
            .as_array()
            .is_some_and(|it| !it.is_empty());
        assert_eq!(health["status"] == "degraded", has_reasons, "{health}");
        health
    }

    /// Saves one record with the given fields; fails if the save is refused.
    pub fn save(&self, id: &str, fields: Json) -> Json {
        let mut record = fields.as_object().unwrap().clone();
        record.insert("_id".into(), id.into());
        let saved = self
            .call("record:save", json!({"records": [record]}))
            .result();
        assert_eq!(saved[0]["_type"], "record", "{saved}");
        saved[0].clone()
    }

    /// Queries a type; fails if the query is refused.
    pub fn query(&self, record_type: &str, predicate: Json) -> Vec<Json> {
        let body = json!({"record_type": record_type, "predicate": predicate});
        self.call("record:query", body)
            .result()
            .as_array()
            .unwrap()
            .clone()
    }
}
