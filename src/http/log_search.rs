//! `/log/search`: all events that match a search, in one answer of JSON Lines or CSV, for the
//! master key.
//!
//! The answer is written page by page as the client reads it, so it takes no more memory than a
//! page, however long it is. It ends where the log ended when it began. If the log can no longer be
//! read, or the server stops, the transfer is aborted: an answer that ends properly is complete.
//! Each line has its position; a client that lost the rest asks again from the next one.

use std::io;
use std::sync::Arc;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream;
use serde_json::{Map, Value as Json};
use skytrail_actors::events::{Direction, EventReader, PageRequest};
use skytrail_schema::code::ApiError;
use tokio_util::sync::CancellationToken;

use super::{body, error, log, router};
use crate::action::log::params::{self, Start};
use crate::action::log::table::Format;
use crate::action::request as members;
use crate::services::Services;

/// How many events are written at once.
const PAGE_EVENTS: usize = 512;

/// The last position that the answer covers.
const UNTIL: HeaderName = HeaderName::from_static("x-skytrail-until");

/// The timeline of its positions.
const TIMELINE: HeaderName = HeaderName::from_static("x-skytrail-timeline");

/// Adds the route.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    let search = web::resource("/log/search")
        .route(web::get().to(get))
        .route(web::post().to(post))
        .default_service(web::route().to(router::route));
    config.service(search);
}

async fn get(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let body = params::body_of_query(request.query_string());
    answer(search(&services, &request, &body).await)
}

async fn post(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    answer(
        match body::read(&request, payload, &services.settings).await {
            Ok(body) => search(&services, &request, &body).await,
            Err(refused) => Err(refused),
        },
    )
}

fn answer(begun: Result<HttpResponse, ApiError>) -> HttpResponse {
    begun.unwrap_or_else(|refused| error::failure(&refused))
}

/// The rest of an answer that is being written.
struct Search {
    reader: Arc<EventReader>,
    page_request: PageRequest,
    format: Format,
    head: String,
    stopping: CancellationToken,
    is_over: bool,
}

async fn search(
    services: &web::Data<Services>,
    request: &HttpRequest,
    body: &Map<String, Json>,
) -> Result<HttpResponse, ApiError> {
    log::admit(services, request, body).await?;
    let reader = Arc::clone(&services.events);
    params::check_timeline(&reader, body)?;
    let named = members::text(body, "format")?;
    let format = named.map_or(Ok(Format::Jsonl), Format::parse)?;
    let range = params::range(&reader, body).await?;
    let until = (*range.end()).min(reader.head());
    let start = params::start(body)?;
    let from = match start {
        Some(start) => Some(start.first(&reader).await?),
        None => None,
    };
    let timeline = reader.timeline().to_string();
    let search = Search {
        page_request: PageRequest {
            filter: params::filter(services, body).await?,
            from,
            range: *range.start()..=until,
            direction: Direction::Forwards,
            limit: PAGE_EVENTS,
        },
        reader,
        format,
        // A client that resumes an earlier answer does so by position, and already has the names.
        head: match start {
            Some(Start::From(_)) => String::new(),
            Some(Start::Time(_)) | None => format.head(),
        },
        stopping: services.stopping.clone(),
        is_over: false,
    };
    let pieces = stream::unfold(search, |mut search| async {
        let piece = search.next().await?;
        Some((piece, search))
    });
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, format.media_type()))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((UNTIL, until.to_string()))
        .insert_header((TIMELINE, timeline))
        .streaming(pieces))
}

impl Search {
    /// Writes the next lines. `None` when there are no more.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let mut text = std::mem::take(&mut self.head);
        while text.is_empty() && !self.is_over {
            let page = tokio::select! {
                page = self.reader.page(&self.page_request) => page,
                () = self.stopping.cancelled() => {
                    Err(ApiError::unexpected("the server is stopping"))
                }
            };
            match page {
                Ok(page) => {
                    self.is_over = page.next.is_none();
                    self.page_request.from = page.next;
                    let lines = page.events.iter();
                    text.extend(lines.map(|found| self.format.line(&found.json)));
                }
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(io::Error::other(error.message)));
                }
            }
        }
        (!text.is_empty()).then(|| Ok(text.into()))
    }
}
