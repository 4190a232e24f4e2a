//! Everything that an action can reach.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use skytrail_actors::accounts::Accounts;
use skytrail_actors::asset::Assets;
use skytrail_actors::capture::CaptureAdmin;
use skytrail_actors::clock::Clock;
use skytrail_actors::delivery::consumers::Consumers;
use skytrail_actors::device::Devices;
use skytrail_actors::erasure::Eraser;
use skytrail_actors::events::EventReader;
use skytrail_actors::hub::Hub;
use skytrail_actors::live::LiveQueries;
use skytrail_actors::plugin::{PluginBroker, PluginGate};
use skytrail_actors::push::Push;
use skytrail_actors::record::records::Records;
use skytrail_actors::sandbox::Sandbox;
use skytrail_actors::task::Tasks;
use skytrail_schema::auth_keys::AuthKeys;
use skytrail_schema::caller::KeyKind;
use skytrail_schema::id::TypeName;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::asset::Files;
use crate::audit::AuditTrail;
use crate::auth::custom_token::CustomTokens;
use crate::auth::refusals::Refusals;
use crate::auth::throttle::Throttle;
use crate::config::{Keys, Limits, Secret};
use crate::http::counters::DoorCounters;
use crate::http::origins::Origins;
use crate::http::remote::Proxies;
use crate::parts::Parts;
use crate::socket::followers::Followers;
use crate::socket::pubsub::SocketLimits;
use crate::socket::seats::Seats;

/// The parts that actions use.
pub struct Services {
    /// Records.
    pub records: Arc<Records>,
    /// Users, roles, relations.
    pub accounts: Arc<Accounts>,
    /// Metadata of files.
    pub assets: Assets,
    /// The bytes of files.
    pub files: Arc<Files>,
    /// Devices and their subscriptions.
    pub devices: Arc<Devices>,
    /// Push services.
    pub push: Push,
    /// Plugins.
    pub plugins: Arc<dyn PluginGate>,
    /// Scheduled tasks.
    pub tasks: Addr<Tasks>,
    /// The state of plugins.
    pub broker: PluginBroker,
    /// Runs plugins on past writes.
    pub sandbox: Arc<Sandbox>,
    /// Delivers after-hooks to plugins.
    pub consumers: Consumers,
    /// Looks after the changes that others make by SQL.
    pub captured: CaptureAdmin,
    /// Erases data for good.
    pub eraser: Arc<Eraser>,
    /// Reads the log.
    pub events: Arc<EventReader>,
    /// The clients that follow the log.
    pub followers: Arc<Followers>,
    /// The hub of `/pubsub`.
    pub hub: Addr<Hub>,
    /// The hub of `/_/pubsub`.
    pub internal_hub: Addr<Hub>,
    /// The limits of the hubs' sockets.
    pub sockets: SocketLimits,
    /// Live queries.
    pub live: LiveQueries,
    /// How many connections may follow live queries.
    pub live_seats: Arc<Seats>,
    /// The keys in use.
    pub keys: Keys,
    /// Reads custom tokens, if logging in with them is configured.
    pub custom_tokens: Option<CustomTokens>,
    /// The audit trail.
    pub audit: Arc<AuditTrail>,
    /// Counts logins and requests that were refused.
    pub refusals: Arc<Refusals>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Throttles sign-up and login.
    pub throttle: Arc<Throttle>,
    /// Settings that actions need.
    pub settings: Settings,
    /// The other parts whose states `/_/health` and `/_/metrics` show.
    pub parts: Parts,
    /// The counters of the HTTP door.
    pub door: Arc<DoorCounters>,
    /// The requests in progress, so that a shutdown can wait for them.
    pub running: TaskTracker,
    /// Cancelled when the server begins to stop: whatever runs without an end then ends.
    pub stopping: CancellationToken,
}

impl Services {
    /// Returns which kind of key a client shows; counts it if it is none of them.
    pub fn kind_of_key(&self, shown: &str) -> Option<KeyKind> {
        let kind = self.keys.kind_of(shown);
        if kind.is_none() {
            self.door.count_wrong_key();
        }
        kind
    }
}

/// Settings that actions need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether clients may extend record types.
    pub dev_mode: bool,
    /// Whether another server hosts the hubs.
    pub is_slave: bool,
    /// The fields that users sign in with.
    pub auth_keys: AuthKeys,
    /// The types whose records show their history to their owners.
    pub history_for_owners: BTreeSet<TypeName>,
    /// The origins of web pages that may call the server.
    pub origins: Origins,
    /// How long an action may take.
    pub response_timeout: Option<Duration>,
    /// The limits of a request.
    pub limits: Limits,
    /// How long a client may take to send a JSON body.
    pub body_timeout: Duration,
    /// The proxies that are trusted to say where a request came from.
    pub proxies: Proxies,
    /// The longest body that is logged; `None` for no limit.
    pub log_body_bytes: Option<usize>,
    /// The key that `/_/metrics` accepts in addition to the master key.
    pub metrics_key: Option<Secret>,
    /// The greatest depth of calls within calls.
    pub max_depth: u32,
    /// The server's public key for browsers' push services, if they are used.
    pub web_push_key: Option<String>,
}
