//! The listening socket and its routes.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::header::UPGRADE;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::Map;
use skytrail_actors::context::RequestContext;
use skytrail_schema::code::ApiError;
use socket2::{Domain, Socket, Type};

use super::checks::{Check, CheckedRequest};
use super::connection::{Connection, Connections};
use super::descriptors::Descriptors;
use super::shown::{KEY, Shown};
use super::{error, files, frame, health, live, log, log_search, metrics, router};
use crate::config::Http;
use crate::services::Services;
use crate::socket::pubsub::{self, HubDoor};

/// How many connections can wait to be accepted.
const BACKLOG: i32 = 2048;

/// The socket that clients connect to. Unless it is closed it outlives a server that stops in order
/// to restart: clients then wait instead of being refused.
#[derive(Debug, Default)]
pub struct Door(Option<Socket>);

impl Door {
    /// Binds the address, the first time, without listening yet: clients are refused until the
    /// parts are ready.
    ///
    /// # Errors
    /// The address is in use or does not belong to this machine.
    pub fn take(&mut self, address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
        let socket = match self.0.take() {
            Some(kept) => kept,
            None => bind(address)?,
        };
        self.0 = Some(socket.try_clone()?);
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok((socket, address))
    }

    /// Refuses clients from when the server stops until it runs again.
    pub fn close(&mut self) {
        self.0 = None;
    }
}

/// Binds an address. The unspecified IPv6 address covers both IP versions, as in v1, or IPv4 alone
/// if the system has no IPv6.
fn bind(address: SocketAddr) -> io::Result<Socket> {
    let is_every = address.is_ipv6() && address.ip().is_unspecified();
    let bound = bind_one(address, is_every);
    bound.or_else(|error| match error.kind() {
        ErrorKind::AddrInUse | ErrorKind::PermissionDenied => Err(error),
        _ if is_every => bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into(), false),
        _ => Err(error),
    })
}

fn bind_one(address: SocketAddr, has_both_versions: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if has_both_versions {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The socket that clients connect to, and the descriptors for their connections.
pub type Entrance = (Socket, Descriptors);

/// Adds the routes of other parts.
pub type Routes = Arc<dyn Fn(&mut web::ServiceConfig) + Send + Sync>;

/// Serves a socket. `routes` are added before the action router, which takes everything else.
///
/// # Errors
/// The socket cannot listen.
pub fn listen(
    services: Arc<Services>,
    routes: Routes,
    ((socket, descriptors), settings): (Entrance, &Http),
    shutdown: Duration,
) -> io::Result<Server> {
    socket.listen(BACKLOG)?;
    let per_worker = descriptors.per_worker(settings.workers);
    let counters = Arc::clone(&services.door);
    let quiet_limit = settings.keep_alive + settings.head_timeout;
    let counted = (counters, descriptors);
    let connections = Connections::start(counted, settings.send_timeout, quiet_limit);
    let services = web::Data::from(services);
    let build = move || {
        let routes = Arc::clone(&routes);
        App::new()
            .app_data(services.clone())
            .wrap(from_fn(frame::frame))
            .configure(move |config| routes(config))
            .route("/_/health", web::get().to(health::health))
            .route("/_/health", web::head().to(health::health))
            .route("/_/metrics", web::get().to(metrics::metrics))
            .configure(files::configure)
            .configure(log::configure)
            .configure(log_search::configure)
            .configure(live::configure)
            .default_service(web::route().to(router::route))
    };
    let server = HttpServer::new(build)
        .workers(settings.workers)
        // Each thread gets its share of the connections.
        .max_connections(per_worker)
        .keep_alive(settings.keep_alive)
        .client_request_timeout(settings.head_timeout)
        // A client that disconnects cancels its request; no published client closes its sending
        // side while it waits.
        .h1_allow_half_closed(false)
        .on_connect(move |stream, data| connections.take(stream, data))
        .tcp_nodelay(true)
        .disable_signals()
        .shutdown_timeout(shutdown.as_secs())
        .listen(socket.into())?;
    Ok(server.run())
}

/// Adds the hubs' routes.
pub fn hubs(config: &mut web::ServiceConfig) {
    config
        .service(hub_route("/pubsub", false))
        .service(hub_route("/_/pubsub", true));
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
    let nothing = Map::new();
    let shown = Shown::of(&request, KEY.in_head_or_query(&request), None);
    let mut checked = CheckedRequest::new(&services, &nothing, shown, RequestContext::system());
    if let Err(refused) = checked.pass(&[Check::AccessKey]).await {
        return Ok(error::failure(&refused));
    }
    if !request.headers().contains_key(UPGRADE) {
        return Ok(HttpResponse::BadRequest().body("Bad Request\n"));
    }
    let client = services.settings.proxies.client_of(&request);
    let seat = match services.sockets.seats.take(client) {
        Ok(seat) => seat,
        Err(refused) => return Ok(error::failure(&refused)),
    };
    let hub = if is_internal {
        &services.internal_hub
    } else {
        &services.hub
    };
    let door = HubDoor {
        hub: hub.clone(),
        limits: services.sockets.clone(),
        may_publish: !is_internal || checked.context.caller.is_master(),
        stopping: services.stopping.clone(),
    };
    if let Some(connection) = request.conn_data::<Connection>() {
        connection.leave_alone();
    }
    pubsub::open(&request, body, seat, door).await
}

/// Answers that there is no such route.
pub(super) async fn unmatched() -> HttpResponse {
    let code = skytrail_schema::code::Code::UndefinedOperation;
    error::failure(&ApiError::new(code, "route unmatched"))
}
