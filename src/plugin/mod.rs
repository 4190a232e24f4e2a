//! Plugins that do not connect by themselves: the server reaches them over HTTP, runs them as
//! programs, or meets them at a `ZeroMQ` socket, as in v1.
//!
//! To the plugin actors, each of them is one worker, with a connection actor like any other, so
//! deadlines, windows, registrations, generations and drains are the same for all transports. A
//! [`session`] plays the worker: it says `hello`, receives what the actor would send to a socket,
//! and gives it to a [`transport::Transport`], which speaks v1's protocol. The [`supervisor`]
//! starts sessions: at the start, again while the plugin is away or its registration is refused,
//! and as a new generation when the plugin comes back.

mod accept;
mod exec;
mod http;
mod null_database;
mod session;
mod supervisor;
mod transport;
pub mod zmq;

use std::sync::Arc;

use actix::ArbiterHandle;
use skytrail_actors::plugin::{ApiCaller, PluginBroker};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, Plugin, PluginTransport, Secret};
use null_database::NullDatabase;
use transport::Transport;

/// Why a plugin's transport cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("plugin {plugin}: {why}")]
pub struct TransportError {
    plugin: String,
    why: String,
}

/// Starts the empty database if a plugin may need it, and stores its address in the configuration.
/// It ends with the guard.
///
/// # Errors
/// Its address cannot be bound.
pub async fn open_database(config: &mut Config) -> std::io::Result<Option<DropGuard>> {
    let Some(address) = config.null_database else {
        return Ok(None);
    };
    let mut transports = config.plugins.iter().map(|plugin| &plugin.transport);
    let is_reached = transports.any(|transport| *transport != PluginTransport::WebSocket);
    // A plugin that connects by itself is told of the database only if its port was chosen.
    let is_chosen = address.port() != 0;
    if !(is_reached || is_chosen) || config.plugin_database.is_some() {
        return Ok(None);
    }
    let database = NullDatabase::bind(address).await?;
    config.plugin_database = Some(Secret::new(database.url()));
    let ending = CancellationToken::new();
    database.serve(ending.clone());
    Ok(Some(ending.drop_guard()))
}

/// Starts reaching the plugins that do not connect by themselves, on an arbiter, until the end.
///
/// # Errors
/// A transport cannot be created; then no plugin is reached.
pub fn reach(
    config: &Config,
    broker: &PluginBroker,
    api: &Arc<dyn ApiCaller>,
    (arbiter, ending): (&ArbiterHandle, &CancellationToken),
) -> Result<(), TransportError> {
    let mut reached = Vec::new();
    for plugin in &config.plugins {
        let made = make(plugin, config, broker, ending).map_err(|why| TransportError {
            plugin: plugin.name.clone(),
            why,
        })?;
        reached.extend(made.map(|transport| (plugin.name.as_str().into(), transport)));
    }
    for (plugin, transport) in reached {
        let (broker, api) = (broker.clone(), Arc::clone(api));
        arbiter.spawn_fn(move || {
            actix::spawn(supervisor::run(plugin, transport, broker, api));
        });
    }
    Ok(())
}

fn make(
    plugin: &Plugin,
    config: &Config,
    broker: &PluginBroker,
    ending: &CancellationToken,
) -> Result<Option<Arc<dyn Transport>>, String> {
    let max_answer = config.plugin.max_message;
    Ok(match &plugin.transport {
        PluginTransport::WebSocket => None,
        PluginTransport::Http { url, window } => {
            let http = http::Http::new(&plugin.name, (url, *window), max_answer)?;
            Some(Arc::new(http))
        }
        PluginTransport::Exec {
            program,
            args,
            window,
        } => {
            if !config.app.dev_mode {
                tracing::warn!(
                    plugin = plugin.name,
                    "a process for each request is slow: exec is meant for development"
                );
            }
            let settings = &broker.settings().config;
            Some(Arc::new(exec::Exec::new(
                &plugin.name,
                (program, args, *window),
                settings,
                max_answer,
            )))
        }
        PluginTransport::Zmq { bind, .. } => {
            let rules = zmq::Rules {
                timeout: plugin.timeout,
                max_bounce: config.plugin.zmq_max_bounce,
                max_message: config.plugin.max_message,
            };
            Some(Arc::new(zmq::Zmq::listen(
                &plugin.name,
                bind,
                &rules,
                ending,
            )?))
        }
    })
}
