//! `/files/<name>`: uploading and downloading files.

use std::time::Duration;

use actix_multipart::{Multipart, MultipartError};
use actix_web::body::SizedStream;
use actix_web::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::web::Bytes;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use blake3::{Hash, Hasher};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use percent_encoding::percent_decode_str;
use serde_json::Map;
use skytrail_actors::context::{RequestContext, RequestId};
use skytrail_actors::log::AppendError;
use skytrail_actors::spawn::run_to_completion;
use skytrail_schema::asset::UNKNOWN_CONTENT_TYPE;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{AssetState, Origin};
use skytrail_schema::id::AssetName;
use skytrail_schema::value::Asset;
use tokio::time::{Instant, timeout, timeout_at};

use super::checks::CheckedRequest;
use super::error;
use super::frame::trace_of;
use super::reply::Reply;
use super::router;
use super::server::unmatched;
use super::shown::{KEY, Shown, TOKEN, query_value};
use crate::action::UPLOADER;
use crate::action::asset_put::{bad_name, check_content_type, new_name, too_large};
use crate::asset::{ByteRange, Content, FileError, FileStore, PDF, Upload, is_shown};
use crate::services::Services;

const PREFIX: &str = "/files/";
/// How long the next bytes of an upload may take.
const SILENCE: Duration = Duration::from_secs(60);
/// What a file that is opened as a page may do: only what browsers' own pages around an image or a
/// video need.
const POLICY: &str = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox";
/// The policy for PDF. The viewers of some browsers do not work in a sandbox; they isolate the
/// file's scripts themselves.
const POLICY_OF_PDF: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Adds the routes.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    let file = web::resource("/{name:.*}")
        .route(web::get().to(download))
        .route(web::head().to(download))
        .route(web::put().to(put))
        .route(web::post().to(post))
        .default_service(web::route().to(unmatched));
    // In a scope, so that other paths are told apart by their prefix, without a regular expression.
    let files = web::scope("/files").service(file);
    config.service(files.default_service(web::route().to(router::route)));
}

/// Returns the decoded name in a path. A name that is not UTF-8 is read as Latin-1, which v1's
/// client for Node sends.
fn raw_name(path: &str) -> String {
    let escaped = path.strip_prefix(PREFIX).unwrap_or_default();
    let bytes: Vec<u8> = percent_decode_str(escaped).collect();
    String::from_utf8(bytes)
        .unwrap_or_else(|error| error.as_bytes().iter().copied().map(char::from).collect())
}

async fn download(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let _running = services.running.token();
    let answer = find(&services, &request).await;
    answer.unwrap_or_else(|refused| error::failure(&refused))
}

async fn find(services: &Services, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let raw = raw_name(request.uri().path());
    let not_found = || ApiError::unexpected(format!("failed to fetch asset id = {raw}"));
    let name = AssetName::clean(&raw).ok_or_else(not_found)?;
    let query = request.query_string();
    let expiry = query_value(query, "expiredAt");
    let signature = query_value(query, "signature").unwrap_or_default();
    let now = services.clock.now();
    let gate = &services.files.gate;
    let good_for = gate.pass(name.as_str(), expiry.as_deref(), &signature, now)?;
    let not_found = || ApiError::unexpected(format!("failed to fetch asset id = {name}"));
    let state = services.assets.find(&name).await?.ok_or_else(not_found)?;
    let range = request.headers().get(RANGE);
    let range = range
        // A range means nothing in an answer without a body.
        .filter(|_| request.method() == Method::GET)
        .and_then(|range| range.to_str().ok())
        .and_then(ByteRange::parse);
    match services.files.store.open(&name, range).await {
        Ok(content) => Ok(respond(content, &state, range.is_some(), good_for)),
        Err(FileError::OutOfRange { size }) => Ok(HttpResponse::RangeNotSatisfiable()
            .insert_header((CONTENT_RANGE, format!("bytes */{size}")))
            .insert_header((CONTENT_TYPE, "text/plain"))
            .insert_header((CONTENT_LENGTH, "0"))
            .finish()),
        Err(FileError::Missing) => Err(not_found()),
        Err(FileError::Unavailable(cause)) => {
            tracing::error!(cause, "a file could not be read");
            Err(unavailable())
        }
        Err(cause @ FileError::OutOfDescriptors) => {
            tracing::error!(%cause, "a file could not be read");
            Err(AppendError::OutOfDescriptors.into())
        }
        Err(cause @ (FileError::Failed(_) | FileError::DiskFull | FileError::TooLarge)) => {
            tracing::error!(%cause, "a file could not be read");
            Err(not_found())
        }
    }
}

fn respond(
    content: Content,
    state: &AssetState,
    is_part: bool,
    good_for: Option<Duration>,
) -> HttpResponse {
    let Content { size, range, bytes } = content;
    let mut answer = HttpResponse::build(if is_part {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    });
    if is_part {
        let last = range.end.saturating_sub(1);
        answer.insert_header((
            CONTENT_RANGE,
            format!("bytes {}-{last}/{size}", range.start),
        ));
    }
    if let Some(good_for) = good_for {
        let kept = format!("private, max-age={}", good_for.as_secs());
        answer.insert_header((CACHE_CONTROL, kept));
    }
    let given = HeaderValue::from_str(&state.content_type).ok();
    let given = given.filter(|given| !given.is_empty());
    let content_type = given.unwrap_or(HeaderValue::from_static(UNKNOWN_CONTENT_TYPE));
    // Anyone with the client key can upload files, and plugins may serve pages from the same
    // origin: no file may run as one of those pages.
    let media_type = state.content_type.to_ascii_lowercase();
    let policy = if media_type == PDF {
        POLICY_OF_PDF
    } else {
        POLICY
    };
    if !is_shown(&media_type) {
        answer.insert_header((CONTENT_DISPOSITION, "attachment"));
    }
    answer
        .insert_header((CONTENT_TYPE, content_type))
        .insert_header((ACCEPT_RANGES, "bytes"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((CONTENT_SECURITY_POLICY, policy))
        .body(SizedStream::new(range.end - range.start, bytes))
}

async fn put(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let _running = services.running.token();
    let store = async {
        let upload = Incoming::new(services.clone(), &request).await?;
        let content_type = request.headers().get(CONTENT_TYPE).map(text_of);
        let broken = |_| bad_request("the body could not be read");
        let bytes = payload.map(|part| part.map_err(broken));
        upload.store(&content_type.unwrap_or_default(), bytes).await
    };
    answer(store.await)
}

async fn post(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let _running = services.running.token();
    let store = async {
        let upload = Incoming::new(services.clone(), &request).await?;
        if !request
            .content_type()
            .eq_ignore_ascii_case("multipart/form-data")
        {
            let message = "request Content-Type isn't multipart/form-data";
            return Err(bad_request(message));
        }
        let mut form = Multipart::new(request.headers(), payload);
        loop {
            let next = timeout_at(upload.deadline, timeout(SILENCE, form.next()));
            let Ok(Ok(next)) = next.await else {
                return Err(too_slow());
            };
            let part = next.ok_or_else(|| bad_request("Missing file in multiparts form"))?;
            let part = part.map_err(|error| unreadable(&error))?;
            if part.name() != Some("file") {
                continue;
            }
            let content_type = part.headers().get(CONTENT_TYPE).map(text_of);
            let content_type = content_type
                .ok_or_else(|| ApiError::unexpected("the file's part has no Content-Type"))?;
            let bytes = part.map(|chunk| chunk.map_err(|error| unreadable(&error)));
            return upload.store(&content_type, bytes).await;
        }
    };
    answer(store.await)
}

/// Returns a header's value, whatever bytes it holds: it is only inspected, and not stored as it
/// is.
fn text_of(header: &HeaderValue) -> String {
    String::from_utf8_lossy(header.as_bytes()).into_owned()
}

fn answer(stored: Result<Reply, ApiError>) -> HttpResponse {
    match stored {
        Ok(reply) => error::success(reply),
        Err(refused) => error::failure(&refused),
    }
}

/// An upload by a client that is allowed to upload.
struct Incoming {
    services: web::Data<Services>,
    context: RequestContext,
    raw: String,
    deadline: Instant,
}

impl Incoming {
    /// Checks the key and the announced size.
    async fn new(services: web::Data<Services>, request: &HttpRequest) -> Result<Self, ApiError> {
        let (key, token) = (KEY.in_head_or_query(request), TOKEN.in_head(request));
        let shown = Shown::of(request, key, token);
        let context = RequestContext {
            caller: Default::default(),
            request: RequestId::own(trace_of(request).id),
            tag: "asset",
            may_migrate: false,
            origin: Origin::Api,
            ..RequestContext::system()
        };
        let nothing = Map::new();
        let mut checked = CheckedRequest::new(&services, &nothing, shown, context);
        checked.pass(UPLOADER).await?;
        let context = checked.context;
        let limits = services.files.limits;
        let announced = request.headers().get(CONTENT_LENGTH);
        let announced = announced.and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
        // A form is a little larger than its file; whether the file is too large is only known
        // while it is read.
        let is_form = request.method() == Method::POST;
        if !is_form && announced.is_some_and(|bytes| bytes > limits.max_bytes) {
            return Err(too_large(limits.max_bytes));
        }
        Ok(Self {
            context,
            deadline: Instant::now() + limits.time,
            services,
            raw: raw_name(request.uri().path()),
        })
    }

    /// Stores the bytes as they arrive; a file that is not known gets a name of its own.
    async fn store(
        self,
        content_type: &str,
        bytes: impl Stream<Item = Result<Bytes, ApiError>> + Unpin,
    ) -> Result<Reply, ApiError> {
        if content_type.is_empty() {
            let message = "Content-Type cannot be empty";
            return Err(ApiError::new(Code::InvalidArgument, message));
        }
        let (services, raw) = (self.services, self.raw.as_str());
        let asked_for = AssetName::clean(raw).ok_or_else(|| bad_name(raw))?;
        let found = services.assets.find(&asked_for).await?;
        let (name, content_type) = match found {
            Some(found) => (asked_for, found.content_type),
            None => {
                let name = new_name(raw)?;
                check_content_type(content_type)?;
                services.assets.check_place(&name).await?;
                (name, content_type.to_owned())
            }
        };
        let mut bytes = Body {
            bytes,
            deadline: self.deadline,
            remaining: services.files.limits.max_bytes,
            max_bytes: services.files.limits.max_bytes,
        };
        let Some(first) = bytes.next().await? else {
            return Err(ApiError::new(Code::InvalidArgument, "Zero-byte content"));
        };
        let store = &services.files.store;
        let upload = store
            .begin(&name, &content_type)
            .await
            .map_err(not_stored)?;
        let (upload, size, hash) = write(upload, first, &mut bytes).await?;
        let state = AssetState { content_type, size };
        let asset = Asset {
            url: services.files.urls.url_of(name.as_str()),
            content_type: Some(state.content_type.clone()),
            name: name.to_string(),
        };
        let ending = UploadFinisher {
            services,
            context: self.context,
            name,
            state,
            hash,
            upload,
        };
        let ended = run_to_completion("end of an upload", ending.run()).await;
        ended.unwrap_or_else(|| Err(ApiError::unexpected("the upload was abandoned")))?;
        Reply::new(&asset.to_wire())
    }
}

/// The steps after all bytes have arrived. They continue if the client hangs up: bytes in their
/// final place must be recorded in the log, or be deleted if they were erased during the upload.
struct UploadFinisher {
    services: web::Data<Services>,
    context: RequestContext,
    name: AssetName,
    state: AssetState,
    hash: Hash,
    upload: Box<dyn Upload>,
}

impl UploadFinisher {
    async fn run(self) -> Result<(), ApiError> {
        let (assets, files) = (&self.services.assets, &self.services.files);
        let store = &files.store;
        let _turn = files.turns.take(&self.name).await;
        assets.check_caller(&self.context).await?;
        let found = if self.context.caller.is_master() {
            Found::Nothing
        } else {
            compare(&**store, &self.name, (self.state.size, self.hash))
                .await
                .map_err(not_stored)?
        };
        match found {
            Found::Nothing => self.upload.finish().await.map_err(not_stored)?,
            Found::Same => drop(self.upload),
            Found::Other => return Err(was_uploaded(&self.name)),
        }
        let is_new = matches!(found, Found::Nothing);
        let hash = self.hash.to_hex().to_string();
        let noted = assets.note_upload(&self.name, self.state, hash, &self.context);
        let noted = noted.await;
        let is_erased = match &noted {
            // The file's user was erased in between.
            Err(error) if error.code == Code::AccessTokenNotAccepted => is_new,
            Err(_) => assets.is_erased(&self.name),
            Ok(()) => false,
        };
        if is_erased {
            store.remove(&self.name).await.map_err(not_stored)?;
        }
        noted
    }
}

/// What is already stored under a name.
enum Found {
    Nothing,
    /// The same bytes as those just uploaded.
    Same,
    Other,
}

/// Compares the file stored under a name with the upload. Anyone who may read a record with the
/// file knows the name, so existing bytes are kept; a client that retries finds what it sent.
async fn compare(
    store: &dyn FileStore,
    name: &AssetName,
    (size, hash): (u64, Hash),
) -> Result<Found, FileError> {
    let stored = match store.open(name, None).await {
        Ok(stored) if stored.size == size => stored,
        Ok(_) => return Ok(Found::Other),
        Err(FileError::Missing) => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let (mut bytes, mut hasher) = (stored.bytes, Hasher::new());
    while let Some(chunk) = bytes.try_next().await? {
        hasher.update(&chunk);
    }
    let is_same = hasher.finalize() == hash;
    Ok(if is_same { Found::Same } else { Found::Other })
}

fn was_uploaded(name: &AssetName) -> ApiError {
    let message = format!("file {name} was uploaded; only the master key replaces it");
    ApiError::new(Code::Duplicated, message)
}

async fn write(
    mut upload: Box<dyn Upload>,
    first: Bytes,
    bytes: &mut Body<impl Stream<Item = Result<Bytes, ApiError>> + Unpin>,
) -> Result<(Box<dyn Upload>, u64, Hash), ApiError> {
    let (mut size, mut hasher) = (0, Hasher::new());
    let mut next = Some(first);
    while let Some(chunk) = next {
        size += chunk.len() as u64;
        hasher.update(&chunk);
        upload.write(chunk).await.map_err(not_stored)?;
        next = bytes.next().await?;
    }
    Ok((upload, size, hasher.finalize()))
}

/// The bytes of a file as they arrive, within their limits.
struct Body<S> {
    bytes: S,
    deadline: Instant,
    remaining: u64,
    max_bytes: u64,
}

impl<S: Stream<Item = Result<Bytes, ApiError>> + Unpin> Body<S> {
    /// Returns the next bytes, never an empty chunk; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let next = timeout_at(self.deadline, timeout(SILENCE, self.bytes.next()));
            let Ok(Ok(next)) = next.await else {
                return Err(too_slow());
            };
            let Some(chunk) = next.transpose()? else {
                return Ok(None);
            };
            let remaining = self.remaining.checked_sub(chunk.len() as u64);
            self.remaining = remaining.ok_or_else(|| too_large(self.max_bytes))?;
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }
}

fn bad_request(message: &str) -> ApiError {
    ApiError::new(Code::BadRequest, message)
}

fn unreadable(error: &MultipartError) -> ApiError {
    bad_request(&format!("the form could not be read: {error}"))
}

fn too_slow() -> ApiError {
    bad_request("the file did not arrive in time").with_status(408)
}

fn not_stored(error: FileError) -> ApiError {
    tracing::error!(%error, "a file could not be stored");
    match error {
        FileError::DiskFull => AppendError::DiskFull.into(),
        FileError::TooLarge => ApiError::unexpected(error.to_string()).with_status(507),
        FileError::OutOfDescriptors => AppendError::OutOfDescriptors.into(),
        FileError::Unavailable(_) => unavailable(),
        _ => ApiError::unexpected("the file could not be stored"),
    }
}

fn unavailable() -> ApiError {
    ApiError::unexpected("the file store is not available, try again")
        .with_status(503)
        .with_info("retry_after_ms", 1000.into())
}
