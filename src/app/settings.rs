//! The settings of each part, taken from the configuration.

use std::sync::Arc;

use skytrail_actors::accounts::{AccountSettings, Accounts};
use skytrail_actors::clock::Clock;
use skytrail_actors::delivery::consumers::DeliverySettings;
use skytrail_actors::device::DeviceLimits;
use skytrail_actors::hub::HubSettings;
use skytrail_actors::log::{LogOptions, Reserve};
use skytrail_actors::plugin::{PluginEntry, PluginsSettings};
use skytrail_actors::push::PushSettings;
use skytrail_actors::record::env::RecordEnv;
use skytrail_actors::task::TaskSettings;

use super::{EXIT_LOG_IN_DOUBT, StartError};
use crate::action::ACTIONS;
use crate::auth::password::Argon2Hasher;
use crate::auth::token;
use crate::config::{Config, Keys, PubSub};
use crate::push::web::VapidKey;
use crate::services::Settings;
use crate::socket::pubsub::SocketLimits;
use crate::socket::seats::Seats;
use crate::socket::text_frame;

pub(super) fn log(config: &Config, clock: &Arc<dyn Clock>, reserve: Arc<Reserve>) -> LogOptions {
    let clock = Arc::clone(clock);
    let on_fatal = |doubt: &str| {
        tracing::error!(
            doubt,
            "the log can no longer vouch for what it wrote; exiting"
        );
        std::process::exit(EXIT_LOG_IN_DOUBT);
    };
    LogOptions {
        sled_cache_bytes: config.storage.sled_cache_bytes,
        queue_decisions: config.storage.log_queue,
        reserve: Some(reserve),
        ..LogOptions::new(Arc::new(move || clock.now()), Arc::new(on_fatal))
    }
}

pub(super) fn accounts(
    config: &Config,
    keys: &Keys,
    env: RecordEnv,
) -> Result<Accounts, StartError> {
    let secret = config.tokens.secret.as_ref().unwrap_or(&keys.master);
    let tokens = token::open(&config.tokens, &config.app.name, secret.reveal());
    let tokens = tokens.map_err(StartError::io("the token store cannot be used"))?;
    let hasher = Argon2Hasher::new(config.http.workers);
    let settings = AccountSettings {
        auth_keys: config.app.auth_record_keys.clone(),
        policy: config.app.password_policy.clone(),
        is_verification_required: config.app.verify_required,
    };
    Ok(Accounts::new(env, Arc::new(hasher), tokens, settings))
}

pub(super) fn devices(config: &Config) -> DeviceLimits {
    DeviceLimits {
        devices: config.http.limits.user_devices,
        subscriptions: config.http.limits.device_subscriptions,
    }
}

pub(super) fn plugins(config: &Config, keys: &Keys) -> PluginsSettings {
    let limits = &config.plugin;
    let entry = |plugin: &crate::config::Plugin| PluginEntry {
        name: plugin.name.as_str().into(),
        transport: plugin.transport.kind(),
        timeout: plugin.timeout,
    };
    PluginsSettings {
        plugins: config.plugins.iter().map(entry).collect(),
        actions: ACTIONS.iter().map(|action| action.name).collect(),
        allow_unlisted: limits.allow_unlisted,
        dev_mode: config.app.dev_mode,
        config: Arc::new(config.for_plugins(keys)),
        max_queue: limits.queue,
        rejoin_wait: limits.rejoin_wait,
        heartbeat: limits.heartbeat,
        resume: limits.resume,
        drain: limits.drain,
        max_message: limits.max_message,
        max_calls: limits.max_calls,
        max_depth: limits.max_depth,
        ..PluginsSettings::default()
    }
}

/// Anyone with the master key can have plugins tried out; nobody waits for these plugins.
pub(super) fn sandbox(config: &Config, keys: &Keys) -> PluginsSettings {
    PluginsSettings {
        plugins: Vec::new(),
        allow_unlisted: true,
        ..plugins(config, keys)
    }
}

pub(super) fn tasks(config: &Config) -> TaskSettings {
    let timers = &config.timers;
    TaskSettings {
        zone: timers.zone.clone(),
        catch_up: timers.catch_up,
        is_slave: timers.is_slave,
    }
}

pub(super) fn hub(pubsub: &PubSub) -> HubSettings {
    HubSettings {
        queue_messages: pubsub.queue_messages,
        queue_bytes: pubsub.queue_bytes,
        max_channels: pubsub.max_channels,
        encode: text_frame::of_message,
    }
}

pub(super) fn sockets(pubsub: &PubSub) -> SocketLimits {
    SocketLimits {
        seats: Seats::new(pubsub.max_sockets, pubsub.max_sockets_per_address),
        max_channel_bytes: pubsub.max_channel_bytes,
        max_message_bytes: pubsub.max_message_bytes,
    }
}

pub(super) fn push(config: &Config) -> PushSettings {
    PushSettings {
        max_queue: config.push.max_queue,
        max_attempts: config.push.max_attempts,
    }
}

pub(super) fn deliveries(config: &Config) -> DeliverySettings {
    DeliverySettings {
        max_attempts: config.plugin.max_attempts,
        max_lag: config.plugin.max_lag,
        rejoin_wait: config.plugin.rejoin_wait,
    }
}

pub(super) fn services(config: &Config, keys: &Keys) -> Settings {
    let web_push_key = VapidKey::parse(keys.web_push.reveal());
    let web_push_key = web_push_key.ok().filter(|_| config.push.web.is_some());
    Settings {
        dev_mode: config.app.dev_mode,
        is_slave: config.timers.is_slave,
        auth_keys: config.app.auth_record_keys.clone(),
        history_for_owners: config.app.history_for_owners.clone(),
        origins: config.http.origins.clone(),
        response_timeout: config.http.response_timeout,
        limits: config.http.limits,
        body_timeout: config.http.body_timeout,
        proxies: config.http.proxies.clone(),
        log_body_bytes: config.log.body_bytes,
        metrics_key: config.http.metrics_key.clone(),
        max_depth: config.plugin.max_depth,
        web_push_key: web_push_key.map(|key| key.to_public_text()),
    }
}
