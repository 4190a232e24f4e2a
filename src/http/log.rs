//! `/log/follow` (server-sent events) and `/log` (WebSocket): following the log, for the master
//! key.

use std::sync::Arc;

use actix_web::http::header::UPGRADE;
use actix_web::{HttpRequest, HttpResponse, guard, web};
use serde_json::{Map, Value as Json};
use skytrail_actors::context::RequestContext;
use skytrail_actors::events::{Follower, Progress};
use skytrail_actors::log::Timeline;
use skytrail_actors::spawn::spawn_named;
use skytrail_schema::code::ApiError;

use super::checks::{Check, CheckedRequest};
use super::shown::{KEY, Shown};
use super::sse::{self, Feed, Frame, SendError};
use super::{body, error, router};
use crate::action::log::params;
use crate::services::Services;
use crate::socket::log;

/// How many events can wait for a client.
const QUEUE: usize = 64;

/// Adds the routes.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    let follow = web::resource("/log/follow")
        .route(web::get().to(get))
        .route(web::post().to(post))
        .default_service(web::route().to(router::route));
    // A plugin can have a handler of that name.
    let is_upgrade = guard::fn_guard(|context: &guard::GuardContext<'_>| {
        context.head().headers().contains_key(UPGRADE)
    });
    let socket = web::resource("/log")
        .route(web::get().guard(is_upgrade).to(upgrade))
        .default_service(web::route().to(router::route));
    config.service(follow).service(socket);
}

async fn get(services: web::Data<Services>, request: HttpRequest) -> HttpResponse {
    let body = params::body_of_query(request.query_string());
    answer(follow(&services, &request, &body).await)
}

async fn post(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    answer(
        match body::read(&request, payload, &services.settings).await {
            Ok(body) => follow(&services, &request, &body).await,
            Err(refused) => Err(refused),
        },
    )
}

async fn upgrade(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    match admit(&services, &request, &Map::new()).await {
        Ok(()) => log::open(services.into_inner(), &request, payload),
        Err(refused) => Ok(error::failure(&refused)),
    }
}

/// Admits a client that shows the master key.
pub(super) async fn admit(
    services: &Services,
    request: &HttpRequest,
    body: &Map<String, Json>,
) -> Result<(), ApiError> {
    let shown = Shown::of(request, KEY.anywhere(request, body), None);
    let mut checked = CheckedRequest::new(services, body, shown, RequestContext::system());
    checked
        .pass(&[Check::AccessKey, Check::RequireMaster])
        .await
}

/// Starts to follow the log. A client that reconnects resumes after the last event it received.
async fn follow(
    services: &web::Data<Services>,
    request: &HttpRequest,
    body: &Map<String, Json>,
) -> Result<HttpResponse, ApiError> {
    admit(services, request, body).await?;
    let follower = match sse::last_event_id(request) {
        Some(after) => params::follower_after(services, body, after?).await?,
        None => params::follower(services, body).await?,
    };
    let timeline = services.events.timeline();
    let (feed, response) = sse::open(QUEUE, services.stopping.clone());
    let followers = Arc::clone(&services.followers);
    spawn_named("log follower", async move {
        let _counted = followers.enter();
        // Disconnected or too slow: the client reconnects and resumes.
        let _ = tell(&feed, follower, timeline).await;
    });
    Ok(response)
}

/// Sends events until the client disconnects.
async fn tell(feed: &Feed, mut follower: Follower, timeline: Timeline) -> Result<(), SendError> {
    let mut progress = Progress::new(timeline);
    loop {
        let page = tokio::select! {
            page = follower.next() => page,
            () = feed.gone() => return Err(SendError::Gone),
        };
        for found in &page.events {
            let id = timeline.at(found.position).to_string();
            feed.send(Frame::new(Some(&id), "event", found.json.get()))
                .await?;
        }
        if let Some(note) = progress.note(&page, follower.position()) {
            let id = timeline.at(follower.position()).to_string();
            feed.send(Frame::new(Some(&id), "position", &note.to_string()))
                .await?;
        }
    }
}

fn answer(begun: Result<HttpResponse, ApiError>) -> HttpResponse {
    begun.unwrap_or_else(|refused| error::failure(&refused))
}
