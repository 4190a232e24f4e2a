//! The HTTP server for clients and plugins: what actions can reach, and the routes.

use std::io;
use std::sync::Arc;

use actix::Addr;
use actix_web::dev::ServerHandle;
use futures_util::FutureExt as _;
use skytrail_actors::asset::Assets;
use skytrail_actors::events::EventReader;
use skytrail_actors::plugin::{ApiCaller, PluginBroker};
use skytrail_actors::projector::Projector;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::domain::Domain;
use super::downstream::Downstream;
use super::upkeep::Upkeep;
use super::{STEP_DEADLINE, StartContext, StartError, settings};
use crate::auth::custom_token::CustomTokens;
use crate::auth::throttle::Throttle;
use crate::http::router::PluginCaller;
use crate::http::sandbox::SandboxCaller;
use crate::http::server;
use crate::parts::Parts;
use crate::services::Services;
use crate::socket::plugin::{self, PluginDoor};
use crate::socket::seats::Seats;

/// The parts behind the HTTP server: what requests use.
#[derive(Clone, Copy)]
pub(super) struct Backend<'a> {
    pub(super) projector: &'a Addr<Projector>,
    pub(super) domain: &'a Domain,
    pub(super) downstream: &'a Downstream,
    pub(super) upkeep: &'a Upkeep,
}

/// The listening HTTP server.
pub(super) struct HttpServer {
    pub(super) http: ServerHandle,
    /// Ends when the threads have ended.
    pub(super) serving: JoinHandle<io::Result<()>>,
    /// The plugins' access to the server.
    pub(super) api: Arc<dyn ApiCaller>,
    /// The requests in progress.
    pub(super) running: TaskTracker,
    /// Cancelled when the shutdown begins.
    pub(super) stopping: CancellationToken,
}

impl HttpServer {
    /// Starts to serve at a socket.
    ///
    /// # Errors
    /// The socket does not listen, or a thread does not start.
    pub(super) fn open(
        on: &StartContext<'_>,
        backend: Backend<'_>,
        entrance: server::Entrance,
    ) -> Result<Self, StartError> {
        let services = Arc::new(services(on, backend));
        let (running, stopping) = (services.running.clone(), services.stopping.clone());
        let door = |path, broker: &PluginBroker, api: &Arc<dyn ApiCaller>| PluginDoor {
            path,
            broker: broker.clone(),
            api: Arc::clone(api),
            services: Arc::clone(&services),
        };
        let api: Arc<dyn ApiCaller> = Arc::new(PluginCaller::new(&services));
        let tried_api: Arc<dyn ApiCaller> = Arc::new(SandboxCaller(Arc::clone(&services)));
        let plugins = door(plugin::PATH, &backend.domain.broker, &api);
        let tried = door(plugin::SANDBOX_PATH, &backend.domain.tried, &tried_api);
        let is_slave = on.config.timers.is_slave;
        let routes: server::Routes = Arc::new(move |config| {
            plugin::configure(&plugins, config);
            plugin::configure(&tried, config);
            if !is_slave {
                server::hubs(config);
            }
        });
        let settings = &on.config.http;
        let server = server::listen(services, routes, (entrance, settings), STEP_DEADLINE);
        let cannot = format!("cannot listen on {}", settings.listen);
        let mut server = server.map_err(StartError::io(&cannot))?;
        let http = server.handle();
        // This starts the threads: from here on, they answer.
        let failed = (&mut server).now_or_never();
        failed
            .map_or(Ok(()), |ended| ended.and(Err(ended_early())))
            .map_err(StartError::io(
                "the HTTP server's threads cannot be started",
            ))?;
        Ok(Self {
            http,
            serving: actix_web::rt::spawn(server),
            api,
            running,
            stopping,
        })
    }
}

fn ended_early() -> io::Error {
    io::Error::other("they have ended")
}

/// Gathers what actions can reach.
fn services(on: &StartContext<'_>, backend: Backend<'_>) -> Services {
    let (config, core) = (on.config, on.core);
    let Backend {
        domain,
        downstream,
        upkeep,
        projector,
    } = backend;
    let events = EventReader::new(
        (Arc::clone(&core.log) as _, core.timeline),
        Arc::clone(&core.store) as _,
        domain.env.applied.clone(),
    );
    let live_seats = Seats::new(
        config.live.max_connections,
        config.live.max_connections_per_address,
    );
    let custom_tokens = config.custom_token_secret.as_ref();
    Services {
        records: Arc::clone(&domain.records),
        accounts: Arc::clone(&domain.accounts),
        assets: Assets::new(domain.env.clone()),
        files: Arc::clone(&domain.files),
        devices: Arc::clone(&domain.devices),
        push: downstream.push.clone(),
        plugins: Arc::clone(&domain.env.plugins),
        tasks: downstream.tasks.clone(),
        broker: domain.broker.clone(),
        sandbox: Arc::clone(&domain.sandbox),
        consumers: core.consumers.clone(),
        captured: domain.captured.clone(),
        eraser: Arc::clone(&upkeep.eraser),
        events: Arc::new(events),
        hub: downstream.hub.clone(),
        internal_hub: downstream.internal_hub.clone(),
        sockets: settings::sockets(&config.pubsub),
        live: downstream.live.clone(),
        live_seats,
        keys: on.keys.clone(),
        custom_tokens: custom_tokens.map(|secret| CustomTokens::new(secret.reveal())),
        audit: Arc::clone(&upkeep.audit),
        refusals: Arc::clone(&upkeep.refusals),
        clock: Arc::clone(&core.clock),
        settings: settings::services(config, on.keys),
        parts: Parts {
            log: Arc::clone(&core.log),
            store: Arc::clone(&core.store),
            projector: projector.clone(),
            notices: downstream.notices.clone(),
            live_follower: downstream.live_follower.clone(),
            backups: Arc::clone(&upkeep.backups),
            checkpoints: Arc::clone(&core.checkpoints),
        },
        followers: Arc::default(),
        throttle: Arc::new(Throttle::new(config.http.auth_throttle)),
        door: Arc::default(),
        running: TaskTracker::new(),
        stopping: core.stopping.clone(),
    }
}
