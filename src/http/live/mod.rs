//! `/live` (WebSocket) and `/live/query` (server-sent events): live queries.

mod admission;
mod refused;

use std::sync::Arc;

use actix_web::http::header::UPGRADE;
use actix_web::{HttpRequest, HttpResponse, guard, web};
use serde_json::{Map, Value as Json};
use skytrail_actors::live::{Connected, EndReason, Ended, Inbox, Subscribe};
use skytrail_actors::log::Timeline;
use skytrail_schema::code::ApiError;
use skytrail_schema::json;

use super::checks::limited_to;
use super::shown::{KEY, TOKEN};
use super::sse::{self, Feed, Frame, SendError};
use super::{body, error, router};
use crate::services::Services;
use crate::socket::live;
use crate::socket::seats::Seat;

pub use super::shown::Shown;
pub use admission::{Admitted, End, admit, read_from, read_query};
pub use refused::error_frame;

/// What a client is told that does not read what is waiting for it.
pub const TOO_SLOW: &str = "too slow: too much was waiting; resume from the last position";

/// When such a client should come back.
const RETRY_AFTER_MS: u64 = 1000;

/// How many events can be between a client's bounded queue and its connection.
const QUEUE: usize = 1;

/// The members that a query string holds as JSON; the others are plain strings.
const JSON_MEMBERS: [&str; 8] = [
    "predicate",
    "include",
    "desired_keys",
    "from",
    "sort",
    "limit",
    "offset",
    "count",
];

/// Adds the routes.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    // A plugin can have a handler of that name.
    let is_upgrade = guard::fn_guard(|context: &guard::GuardContext<'_>| {
        context.head().headers().contains_key(UPGRADE)
    });
    let socket = web::resource("/live")
        .route(web::get().guard(is_upgrade).to(upgrade))
        .default_service(web::route().to(router::route));
    let stream = web::resource("/live/query")
        .route(web::get().to(get))
        .route(web::post().to(post))
        .default_service(web::route().to(router::route));
    config.service(socket).service(stream);
}

/// Returns the credentials that a request shows.
///
/// # Errors
/// As [`limited_to`].
fn shown(request: &HttpRequest, body: &Map<String, Json>) -> Result<Shown, ApiError> {
    let in_body = limited_to(body)?.map(|user| user.to_string());
    let (key, token) = (KEY.anywhere(request, body), TOKEN.anywhere(request, body));
    let mut shown = Shown::of(request, key, token);
    shown.rights_of = shown.rights_of.or(in_body);
    Ok(shown)
}

async fn upgrade(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    let seated = async {
        let shown = shown(&request, &Map::new())?;
        let admitted = admit(&services, &shown).await?;
        Ok((shown, admitted, take_seat(&services, &request)?))
    };
    match seated.await {
        Ok((shown, admitted, seat)) => live::open(
            &request,
            payload,
            services.into_inner(),
            (shown, admitted, seat),
        ),
        Err(refused) if refused::is_hidden_from_socket(&refused, &request) => {
            live::refuse(&request, payload, refused)
        }
        Err(refused) => Ok(error::failure(&refused)),
    }
}

fn take_seat(services: &Services, request: &HttpRequest) -> Result<Seat, ApiError> {
    let client = services.settings.proxies.client_of(request);
    services.live_seats.take(client)
}

async fn get(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
    let pairs = pairs.map(web::Query::into_inner).unwrap_or_default();
    let limits = &services.settings.limits;
    let member = |(name, text): (String, String)| {
        let value = if JSON_MEMBERS.contains(&name.as_str()) {
            limits.check_json(text.as_bytes())?;
            json::from_str(&text).map_err(|error| {
                ApiError::invalid_argument(format!("{name} must be JSON: {error}"), &[&name])
            })?
        } else {
            Json::from(text)
        };
        Ok((name, value))
    };
    let body = pairs.into_iter().map(member).try_fold(Map::new(), once);
    answer(&services, &request, body).await
}

/// Adds a member that a query must not give twice.
fn once(
    mut body: Map<String, Json>,
    member: Result<(String, Json), ApiError>,
) -> Result<Map<String, Json>, ApiError> {
    let (name, value) = member?;
    if body.contains_key(&name) {
        let message = format!("{name} is given twice");
        return Err(ApiError::invalid_argument(message, &[&name]));
    }
    body.insert(name, value);
    Ok(body)
}

async fn post(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let body = body::read(&request, payload, &services.settings).await;
    answer(&services, &request, body).await
}

async fn answer(
    services: &web::Data<Services>,
    request: &HttpRequest,
    body: Result<Map<String, Json>, ApiError>,
) -> HttpResponse {
    let begun = match body {
        Ok(body) => begin(services, request, &body).await,
        Err(refused) => Err(refused),
    };
    begun.unwrap_or_else(|refused| refused::answer(&refused, request))
}

/// Starts to follow a query. A client that reconnects resumes after the last event it received.
async fn begin(
    services: &web::Data<Services>,
    request: &HttpRequest,
    body: &Map<String, Json>,
) -> Result<HttpResponse, ApiError> {
    let shown = shown(request, body)?;
    let admitted = admit(services, &shown).await?;
    let scope = shown.pass(services, body).await?.scope;
    let query = read_query(services, body, scope)?;
    let from = match sse::last_event_id(request) {
        Some(after) => Some(after?),
        None => read_from(body)?,
    };
    let seat = take_seat(services, request)?;
    let Connected { id, inbox, ended } = services
        .live
        .connect(admitted.audience, admitted.credential);
    let subscription = Subscribe {
        name: "".into(),
        query,
        from,
    };
    if let Err(refused) = services.live.subscribe(id, subscription) {
        services.live.disconnect(id);
        return Err(refused);
    }
    let (feed, response) = sse::open(QUEUE, services.stopping.clone());
    let services = Arc::clone(services);
    actix_web::rt::spawn(async move {
        tell(&services, &feed, (inbox, ended), (&shown, admitted.end)).await;
        services.live.disconnect(id);
        drop(seat);
    });
    Ok(response)
}

/// Sends events until the client disconnects or may no longer listen.
async fn tell(
    services: &Services,
    feed: &Feed,
    (mut inbox, mut ended): (Inbox, Ended),
    (shown, end): (&Shown, End),
) {
    let nothing = Map::new();
    // A logout between admission and subscription did not end this stream, so check again.
    let refused = shown.pass(services, &nothing).await.err();
    let ending = tokio::select! {
        biased;
        Some(refusal) = std::future::ready(refused) => Some(EndReason::Refused(refusal)),
        ending = ended.wait() => Some(ending),
        refusal = end.wait(services) => Some(EndReason::Refused(refusal)),
        () = feed.gone() => None,
        ending = pass_on(feed, &mut inbox, services.events.timeline()) => ending,
    };
    let error = match ending {
        Some(EndReason::Refused(error)) => error,
        Some(EndReason::TooSlow) => {
            ApiError::unexpected(TOO_SLOW).with_info("retry_after_ms", RETRY_AFTER_MS.into())
        }
        Some(EndReason::Stopping) | None => return,
    };
    let _ = feed.send(refused::event(&error)).await;
}

/// Passes on frames. Returns why they end, or `None` if the client has disconnected.
async fn pass_on(feed: &Feed, inbox: &mut Inbox, timeline: Timeline) -> Option<EndReason> {
    while let Some(frame) = inbox.next().await {
        let id = frame
            .position
            .map(|position| timeline.at(position).to_string());
        let is_last = frame.event == "error";
        let frame = Frame::new(id.as_deref(), frame.event, frame.text());
        match feed.send(frame).await {
            Ok(()) if !is_last => {}
            Ok(()) | Err(SendError::Gone) => return None,
            Err(SendError::TooSlow) => return Some(EndReason::TooSlow),
        }
    }
    // Whoever closed the inbox gives the reason.
    std::future::pending().await
}
