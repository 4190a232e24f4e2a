//! A running server as the command line reaches it: over HTTP, with the master key.

use std::time::Duration;

use actix_web::web::Bytes;
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use skytrail_schema::code::Code;
use skytrail_schema::json::{self, Plain};

use crate::config::{Config, KEY_FILE, Keys, Secret, local_client_address};
use crate::tls::use_ring;

/// How long the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may take to answer; longer than an action may take by default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the server may take to say whether it is well. It waits for none of its parts as long.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(10);

/// Selects the server.
#[derive(Clone, Debug, Default, Args)]
pub struct ServerFlag {
    /// The server's address, such as `http://127.0.0.1:3000`; defaults to the one in the settings
    /// (`HOST`).
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
}

/// Why a request failed, in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server does not run, or cannot answer now.
    #[error("{0}")]
    Unavailable(String),
    /// The server refuses.
    #[error("{text}")]
    Refused {
        /// The error's code.
        code: Code,
        /// The sentence.
        text: String,
    },
    /// The request cannot be written, or its answer cannot be read.
    #[error("{0}")]
    Other(String),
}

impl From<CallError> for String {
    fn from(error: CallError) -> Self {
        error.to_string()
    }
}

/// A running server.
pub struct RunningServer {
    client: reqwest::Client,
    base_url: String,
    /// The address without a password that it may contain, for error messages.
    shown: String,
    master_key: Secret,
    /// Where the key comes from, for error messages.
    key_origin: String,
}

/// Runs a command's requests to a server to the end.
///
/// # Errors
/// Those of the requests, or the runtime cannot be started.
pub fn block_on<T, E: Into<String>>(talk: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?
        .block_on(talk)
        .map_err(Into::into)
}

/// Sets a member of a request's body.
pub fn set(body: &mut Json, name: &str, value: impl Into<Json>) {
    if let Json::Object(members) = body {
        members.insert(name.to_owned(), value.into());
    }
}

/// Returns an address without the user and the password in it.
fn without_user(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    let (_, place) = rest.rsplit_once('@').unwrap_or_default();
    match place {
        "" => address.to_owned(),
        place => format!("{scheme}://{place}"),
    }
}

impl RunningServer {
    /// Finds out the server's address and its master key; does not connect yet.
    ///
    /// # Errors
    /// Returns a sentence that says what is missing.
    pub fn find(config: &Config, flag: &ServerFlag) -> Result<Self, String> {
        let master_key = Keys::find_master(config).map_err(|error| error.to_string())?;
        let master_key = master_key.ok_or_else(|| {
            let folder = config.data_dir.display();
            format!("no master key: set MASTER_KEY, or DATA_DIR if it is not {folder}")
        })?;
        let key_origin = match config.app.master_key {
            Some(_) => "MASTER_KEY".to_owned(),
            None => config.data_dir.join(KEY_FILE).display().to_string(),
        };
        use_ring();
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            // The master key would go along.
            .redirect(Policy::none())
            .build()
            .map_err(|error| error.to_string())?;
        let own = || format!("http://{}", local_client_address(config.http.listen));
        let base_url = flag.server.clone().unwrap_or_else(own);
        let base_url = base_url.trim_end_matches('/').to_owned();
        Ok(Self {
            client,
            shown: without_user(&base_url),
            base_url,
            master_key,
            key_origin,
        })
    }

    /// Returns the server's address.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Returns the server's master key.
    pub fn master_key(&self) -> &Secret {
        &self.master_key
    }

    /// Runs an action with the master key and returns its `result`. The body is an object.
    ///
    /// # Errors
    /// No server answers, or the action's own error.
    pub async fn call(&self, action: &str, body: impl Serialize) -> Result<Json, CallError> {
        let (status, bytes) = self.post(action, body).await?;
        let Plain(mut answer) = self.read(status, &bytes)?;
        match answer.get("error") {
            None => Ok(answer.get_mut("result").map(Json::take).unwrap_or_default()),
            Some(error) => Err(self.refusal(error)),
        }
    }

    /// Like [`RunningServer::call`], for an answer that has more than a `result`, or is long.
    ///
    /// # Errors
    /// As [`RunningServer::call`]; also if the answer does not have the expected form.
    pub async fn call_for<T: DeserializeOwned>(
        &self,
        action: &str,
        body: impl Serialize,
    ) -> Result<T, CallError> {
        let (status, bytes) = self.post(action, body).await?;
        if status.is_success() {
            return self.read(status, &bytes);
        }
        let Plain(refusal) = self.read(status, &bytes)?;
        Err(self.refusal(refusal.get("error").unwrap_or(&Json::Null)))
    }

    async fn post(
        &self,
        action: &str,
        body: impl Serialize,
    ) -> Result<(StatusCode, Bytes), CallError> {
        #[derive(Serialize)]
        struct Request<'a, B> {
            action: &'a str,
            #[serde(flatten)]
            body: B,
        }
        let body = serde_json::to_vec(&Request { action, body });
        let body = body.map_err(|error| CallError::Other(error.to_string()))?;
        let request = self.client.post(format!("{}/", self.base_url)).body(body);
        self.send(request.header("Content-Type", "application/json"))
            .await
    }

    /// Sends a request with the master key, and reads the whole answer.
    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, Bytes), CallError> {
        let request = request.header("X-Skygear-API-Key", self.master_key.reveal());
        let unreachable = |error| self.unreachable(&error);
        let response = request.send().await.map_err(unreachable)?;
        self.refuse_redirect(&response)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        Ok((status, bytes))
    }

    /// Returns what is wrong with the server, one sentence each; nothing if all is well.
    ///
    /// # Errors
    /// No server answers, or it has another master key.
    pub async fn troubles(&self) -> Result<Vec<String>, CallError> {
        let request = self.client.get(format!("{}/_/health", self.base_url));
        let (status, bytes) = self.send(request.timeout(HEALTH_TIMEOUT)).await?;
        let Plain(health) = self.read(status, &bytes)?;
        if let Some(error) = health.get("error") {
            return Err(self.refusal(error));
        }
        if health.get("status").is_none() {
            return Err(self.foreign(status));
        }
        // The client key is answered, too, but only that the server runs.
        if health.get("log").is_none() {
            let code = Code::AccessKeyNotAccepted.number();
            return Err(self.refusal(&json!({"code": code})));
        }
        let reasons = health.get("reasons").and_then(Json::as_array);
        let reasons = reasons.into_iter().flatten().filter_map(Json::as_str);
        Ok(reasons.map(str::to_owned).collect())
    }

    /// Begins to follow the log, after the event with an id if one is given.
    ///
    /// # Errors
    /// As [`RunningServer::call`]; every error of the server itself counts as temporary.
    pub async fn follow(
        &self,
        query: &[(&str, String)],
        last_id: Option<&str>,
    ) -> Result<Response, CallError> {
        /// The answer has no end, and the server sends something every few seconds.
        const NO_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        let pairs = query.iter();
        let pairs: Vec<String> = pairs
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        let url = format!("{}/log/follow?{}", self.base_url, pairs.join("&"));
        let mut request = self.client.get(url).timeout(NO_TIMEOUT);
        if let Some(id) = last_id {
            request = request.header("Last-Event-ID", id);
        }
        let request = request.header("X-Skygear-API-Key", self.master_key.reveal());
        let response = request.send().await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        self.refuse_redirect(&response)?;
        let is_unavailable = response.status().is_server_error();
        let bytes = response.bytes().await.unwrap_or_default();
        let said = json::from_slice(&bytes).unwrap_or_default();
        let why = said.get("error").map_or_else(
            || {
                let shown = &self.shown;
                CallError::Other(format!("{shown}: not a response of a Skytrail server"))
            },
            |error| self.refusal(error),
        );
        Err(if is_unavailable {
            CallError::Unavailable(why.into())
        } else {
            why
        })
    }

    /// Fails if the server's address redirects to another one. Only its origin and path are shown:
    /// the rest can contain secrets.
    fn refuse_redirect(&self, response: &Response) -> Result<(), CallError> {
        if !response.status().is_redirection() {
            return Ok(());
        }
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let target = location.and_then(|location| response.url().join(location).ok());
        let to = target.map_or_else(
            || "another address".to_owned(),
            |target| {
                let path = target.path();
                let path = path
                    .strip_suffix(self.path_of(response.url()))
                    .unwrap_or(path);
                format!("{}{path}", target.origin().ascii_serialization())
            },
        );
        let error = format!("{} redirects to {to}: use that address", self.shown);
        Err(CallError::Other(error))
    }

    /// Returns the path of a request, below the server's address.
    fn path_of<'a>(&self, url: &'a Url) -> &'a str {
        let base = Url::parse(&self.base_url).ok();
        let length = base.map_or(0, |base| base.path().trim_end_matches('/').len());
        url.path().get(length..).unwrap_or_default()
    }

    /// Explains why there is no answer.
    fn unreachable(&self, error: &reqwest::Error) -> CallError {
        let (shown, why) = (&self.shown, innermost(error));
        if error.is_connect() {
            return CallError::Unavailable(format!(
                "no server at {shown} ({why}): is it running? --server or HOST names another"
            ));
        }
        let why = if error.is_timeout() {
            "no response in time"
        } else {
            &why
        };
        CallError::Unavailable(format!("{shown}: {why}"))
    }

    /// Formats an error of the API in one line.
    fn refusal(&self, error: &Json) -> CallError {
        let said = |name: &str| error.get(name).and_then(Json::as_str).unwrap_or_default();
        let number = error.get("code").and_then(Json::as_i64).unwrap_or_default();
        let (shown, origin) = (&self.shown, &self.key_origin);
        let code = Code::from_number(number);
        let text = match code {
            // The error's own message contains the whole key, as v1's does.
            Code::AccessKeyNotAccepted => format!(
                "the server at {shown} has a different master key from the one here (from \
                 {origin}): set MASTER_KEY"
            ),
            // Commands show no token, so the master key is all that can be missing.
            Code::NotAuthenticated => format!(
                "the key here (from {origin}) is not the master key of the server at {shown}: \
                 set MASTER_KEY"
            ),
            _ => format!("{} ({} {number})", said("message"), said("name")),
        };
        CallError::Refused { code, text }
    }

    fn read<T: DeserializeOwned>(&self, status: StatusCode, bytes: &[u8]) -> Result<T, CallError> {
        serde_json::from_slice(bytes).map_err(|_| self.foreign(status))
    }

    /// Explains that something else has answered.
    fn foreign(&self, status: StatusCode) -> CallError {
        let shown = &self.shown;
        let text = format!("{shown}: not a response of a Skytrail server (HTTP {status})");
        CallError::Other(text)
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
