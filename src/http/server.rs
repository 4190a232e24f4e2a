//! The listening socket and its routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::header::UPGRADE;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::Map;
use skytrail_actors::context::RequestContext;
use skytrail_schema::code::ApiError;

use super::checks::{Asked, Check};
use super::connection::Connections;
use super::{error, frame, health, metrics, router};
use crate::config::Http;
use crate::services::Services;
use crate::socket::pubsub;

/// A started server, and where it listens.
pub struct Listening {
    /// Runs when awaited; its handle stops it.
    pub server: Server,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Adds routes of other parts.
pub type Routes = Arc<dyn Fn(&mut web::ServiceConfig) + Send + Sync>;

/// Opens the door. `routes` are added before the action router, which takes everything else.
///
/// # Errors
/// The address is in use or not ours.
pub fn listen(
    services: Arc<Services>,
    routes: Routes,
    settings: &Http,
    shutdown: Duration,
) -> std::io::Result<Listening> {
    let counters = Arc::clone(&services.door);
    let quiet_limit = settings.keep_alive + settings.head_timeout;
    let connections = Connections::start(counters, settings.send_timeout, quiet_limit);
    let services = web::Data::from(services);
    let build = move || {
        let routes = Arc::clone(&routes);
        App::new()
            .app_data(services.clone())
            .wrap(from_fn(frame::frame))
            .configure(move |config| routes(config))
            .route("/_/health", web::get().to(health::health))
            .route("/_/metrics", web::get().to(metrics::metrics))
            .service(hub_route("/pubsub", false))
            .service(hub_route("/_/pubsub", true))
            .default_service(web::route().to(router::route))
    };
    let server = HttpServer::new(build)
        .workers(settings.workers)
        // Each thread has its share of the connections.
        .max_connections(settings.max_connections.div_ceil(settings.workers))
        .keep_alive(settings.keep_alive)
        .client_request_timeout(settings.head_timeout)
        // A client that goes away takes its request with it; no published one closes its side
        // while it waits.
        .h1_allow_half_closed(false)
        .on_connect(move |stream, data| connections.take(stream, data))
        .tcp_nodelay(true)
        .disable_signals()
        .shutdown_timeout(shutdown.as_secs())
        .bind(settings.listen)?;
    let address = server.addrs().first().copied().unwrap_or(settings.listen);
    Ok(Listening {
        server: server.run(),
        address,
    })
}

fn hub_route(path: &'static str, is_internal: bool) -> actix_web::Resource {
    web::resource(path)
        .route(
            web::get()
                .to(move |services, request, body| open(services, request, body, is_internal)),
        )
        .default_service(web::route().to(unmatched))
}

async fn open(
    services: web::Data<Services>,
    request: HttpRequest,
    body: web::Payload,
    is_internal: bool,
) -> actix_web::Result<HttpResponse> {
    let header = request
        .headers()
        .get("x-skygear-api-key")
        .and_then(|key| key.to_str().ok());
    let key = header.filter(|key| !key.is_empty()).map(str::to_owned);
    let key = key.or_else(|| query_value(request.query_string(), "api_key"));
    let nothing = Map::new();
    let mut asked = Asked::new(&services, &nothing, key, None, RequestContext::system());
    if let Err(refused) = asked.pass(&[Check::AccessKey]).await {
        return Ok(error::failure(&refused));
    }
    if !request.headers().contains_key(UPGRADE) {
        return Ok(HttpResponse::BadRequest().body("Bad Request\n"));
    }
    let hub = if is_internal {
        &services.internal_hub
    } else {
        &services.hub
    };
    pubsub::open(
        &request,
        body,
        hub.clone(),
        asked.context.caller.key,
        is_internal,
    )
    .await
}

fn query_value(query: &str, name: &str) -> Option<String> {
    let pairs = web::Query::<Vec<(String, String)>>::from_query(query).ok()?;
    pairs
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.clone())
}

async fn unmatched() -> HttpResponse {
    let code = skytrail_schema::code::Code::UndefinedOperation;
    error::failure(&ApiError::new(code, "route unmatched"))
}
