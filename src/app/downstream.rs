//! The parts that process what is committed: each is an actor that reads the log from its position.

use std::sync::Arc;

use actix::{Actor as _, Addr};
use skytrail_actors::delivery::{Delivery, DeliveryParts, PositionSlot, PositionStore as _};
use skytrail_actors::hub::Hub;
use skytrail_actors::live::{LiveFollower, LiveQueries};
use skytrail_actors::log::EventLog as _;
use skytrail_actors::projector::{Applied, AppliedSender, Projector, ProjectorParts};
use skytrail_actors::push::{Push, PushParts};
use skytrail_actors::spawn;
use skytrail_actors::subscription::{Notices, Subscriptions};
use skytrail_actors::task::{CronDriver, TaskParts, Tasks};

use super::domain::Domain;
use super::{StartContext, StartError, background, settings};
use crate::push;

/// The name under which the position of the subscriptions' notices is stored.
const NOTICES: &str = "notices";

/// Those who go on with what is committed, and where it goes.
pub(super) struct Downstream {
    pub(super) hub: Addr<Hub>,
    pub(super) internal_hub: Addr<Hub>,
    pub(super) push: Push,
    pub(super) live: LiveQueries,
    pub(super) live_follower: Addr<Delivery<LiveFollower>>,
    pub(super) notices: Addr<Delivery<Notices>>,
    pub(super) tasks: Addr<Tasks>,
}

impl Downstream {
    /// Starts them: after-hooks, pushes, live queries, notices and scheduled tasks.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(super) async fn start(on: &StartContext<'_>, domain: &Domain) -> Result<Self, StartError> {
        deliver_after_hooks(on, domain).await?;
        let pubsub = &on.config.pubsub;
        let hub = Hub::start_on(&on.arbiters.connections, settings::hub(pubsub));
        let internal_hub = Hub::start_on(&on.arbiters.connections, settings::hub(pubsub));
        let push = start_push(on, domain).await?;
        let (env, timeline) = (domain.env.clone(), on.core.timeline);
        let live = LiveQueries::new(env.clone(), on.config.live.queries, timeline);
        let live_follower = follow_live(on, &live);
        let subscriptions = followed_subscriptions(on, domain);
        let notices = Notices::new(env, subscriptions, internal_hub.clone(), push.notices());
        let notices = notify(on, domain, notices).await?;
        Ok(Self {
            hub,
            internal_hub,
            push,
            live,
            live_follower,
            notices,
            tasks: run_tasks(on, domain),
        })
    }
}

/// Starts what feeds the record store, and returns with it how far it is.
pub(super) fn project(on: &StartContext<'_>) -> (Addr<Projector>, Applied) {
    let core = on.core;
    core.store.keep_indexes(Arc::clone(&core.clock));
    core.store
        .keep_checking(on.config.storage.store_check_period);
    let sender = AppliedSender::new(core.checkpoint);
    let applied = sender.subscribe();
    let parts = ProjectorParts {
        log: Arc::clone(&core.log) as _,
        store: Arc::clone(&core.store) as _,
        model: Arc::clone(&core.model),
        applied: sender,
    };
    let arbiter = on.arbiters.projector.handle();
    let projector = Projector::start_in_arbiter(&arbiter, |_| Projector::new(parts));
    (projector, applied)
}

/// Starts the delivery of after-hooks to plugins.
async fn deliver_after_hooks(on: &StartContext<'_>, domain: &Domain) -> Result<(), StartError> {
    let begun = on.core.consumers.begin(
        domain.env.clone(),
        Arc::clone(&on.core.ops_store) as _,
        settings::deliveries(on.config),
        on.arbiters.consumers.handle(),
    );
    Ok(begun.await?)
}

/// Starts the pushes to push services, with those that are still waiting.
async fn start_push(on: &StartContext<'_>, domain: &Domain) -> Result<Push, StartError> {
    let clock = Arc::clone(&on.core.clock);
    let parts = PushParts {
        senders: push::open(&on.config.push, &on.keys.web_push, &clock)?,
        devices: Arc::clone(&domain.devices) as _,
        outbox: Arc::clone(&on.core.ops_store) as _,
        clock,
        settings: settings::push(on.config),
    };
    let waiting = parts.outbox.load_pushes().await?;
    Ok(Push::start(parts, waiting, &on.arbiters.pushing.handle()))
}

/// Starts what tells live queries.
fn follow_live(on: &StartContext<'_>, live: &LiveQueries) -> Addr<Delivery<LiveFollower>> {
    let parts = DeliveryParts {
        slot: None,
        log: Arc::clone(&on.core.log) as _,
        until: on.core.log.watch_head(),
        consumer: LiveFollower::new(live.clone()),
    };
    let arbiter = on.arbiters.listeners.handle();
    Delivery::start_in_arbiter(&arbiter, |_| Delivery::new(parts, None))
}

/// Returns the subscriptions that this server notifies: none if it is a slave, whose master has the
/// hubs.
fn followed_subscriptions(on: &StartContext<'_>, domain: &Domain) -> Arc<Subscriptions> {
    if on.config.timers.is_slave {
        return Arc::new(Subscriptions::new(Vec::new()));
    }
    let forgotten = background::forget_devices(Arc::clone(&domain.devices));
    spawn::spawn_named("forget devices", forgotten);
    Arc::clone(&on.core.subscriptions)
}

/// Starts what tells those who subscribe, from where it was.
async fn notify(
    on: &StartContext<'_>,
    domain: &Domain,
    notices: Notices,
) -> Result<Addr<Delivery<Notices>>, StartError> {
    let ops_store = &on.core.ops_store;
    let delivered = ops_store.load_position(NOTICES).await?;
    let parts = DeliveryParts {
        slot: Some(PositionSlot {
            name: NOTICES,
            positions: Arc::clone(ops_store) as _,
        }),
        log: Arc::clone(&on.core.log) as _,
        until: domain.env.applied.watch(),
        consumer: notices,
    };
    let start = move |_: &mut _| Delivery::new(parts, delivered);
    let arbiter = on.arbiters.notices.handle();
    Ok(Delivery::start_in_arbiter(&arbiter, start))
}

/// Starts the scheduled tasks of plugins.
fn run_tasks(on: &StartContext<'_>, domain: &Domain) -> Addr<Tasks> {
    let core = on.core;
    let parts = TaskParts {
        log: Arc::clone(&core.log) as _,
        states: Arc::clone(&core.tasks),
        plugins: Arc::clone(&domain.env.plugins),
        clock: Arc::clone(&core.clock),
        driver: Arc::new(CronDriver::default()),
        settings: settings::tasks(on.config),
    };
    let changes = domain.broker.changes();
    let arbiter = on.arbiters.timers.handle();
    Tasks::start_in_arbiter(&arbiter, |_| Tasks::new(parts, changes))
}
