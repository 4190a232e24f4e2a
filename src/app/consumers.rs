//! Those who go on with what is committed: each an actor that reads the log from where it was.

use std::sync::Arc;

use actix::{Actor as _, Addr, Arbiter};
use skytrail_actors::delivery::{Delivery, DeliveryParts, Place, Positions as _};
use skytrail_actors::live::{LiveFollower, LiveQueries};
use skytrail_actors::log::tail::Tail;
use skytrail_actors::plugin::{PluginBroker, PluginGate};
use skytrail_actors::projector::{Applied, Fed, Projector, ProjectorParts};
use skytrail_actors::record::env::RecordEnv;
use skytrail_actors::subscription::Notices;
use skytrail_actors::task::{CronDriver, TaskParts, Tasks};
use tokio::sync::watch;

use super::core::Core;
use super::{StartError, settings};
use crate::config::Config;

/// Under which it is kept how far the subscriptions' notices are.
const NOTICES: &str = "notices";

/// Starts what feeds the record store, and returns with it how far it is.
pub(super) fn project(core: &Core, fed: Fed, arbiter: &Arbiter) -> (Addr<Projector>, Applied) {
    let (applied, position) = watch::channel(core.checkpoint);
    let is_applied = fed.applied(position);
    let parts = ProjectorParts {
        log: Arc::clone(&core.log) as _,
        store: Arc::clone(&core.store) as _,
        live: Arc::clone(&core.live),
        fed,
        applied,
    };
    let projector = Projector::start_in_arbiter(&arbiter.handle(), |_| Projector::new(parts));
    (projector, is_applied)
}

/// Starts what tells live queries.
pub(super) fn follow_live(
    core: &Core,
    (live, tail, committed): (&LiveQueries, Tail, Applied),
    arbiter: &Arbiter,
) -> Addr<Delivery<LiveFollower>> {
    let parts = DeliveryParts {
        place: None,
        log: Arc::clone(&core.log) as _,
        tail,
        applied: committed,
        consumer: LiveFollower::new(live.clone()),
    };
    Delivery::start_in_arbiter(&arbiter.handle(), |_| Delivery::new(parts, None))
}

/// Starts what tells those who subscribe, from where it was.
///
/// # Errors
/// The ledger.
pub(super) async fn notify(
    core: &Core,
    env: &RecordEnv,
    (notices, tail): (Notices, Tail),
    arbiter: &Arbiter,
) -> Result<Addr<Delivery<Notices>>, StartError> {
    let told = core.deliveries.load_position(NOTICES).await;
    let told = told.map_err(|error| StartError::Store(error.to_string()))?;
    let parts = DeliveryParts {
        place: Some(Place {
            name: NOTICES,
            positions: Arc::clone(&core.deliveries) as _,
        }),
        log: Arc::clone(&core.log) as _,
        tail,
        applied: env.applied.clone(),
        consumer: notices,
    };
    let start = move |_: &mut _| Delivery::new(parts, told);
    Ok(Delivery::start_in_arbiter(&arbiter.handle(), start))
}

/// Starts the scheduled tasks of plugins.
pub(super) fn run_tasks(
    core: &Core,
    config: &Config,
    (plugins, broker): (&Arc<dyn PluginGate>, &PluginBroker),
    arbiter: &Arbiter,
) -> Addr<Tasks> {
    let parts = TaskParts {
        log: Arc::clone(&core.log) as _,
        ledger: Arc::clone(&core.tasks),
        plugins: Arc::clone(plugins),
        clock: Arc::clone(&core.clock),
        driver: Arc::new(CronDriver::default()),
        settings: settings::tasks(config),
    };
    let changes = broker.changes();
    Tasks::start_in_arbiter(&arbiter.handle(), |_| Tasks::new(parts, changes))
}
