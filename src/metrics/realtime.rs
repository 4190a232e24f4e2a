//! Metrics of what clients receive: pushes, live queries, channels.

use skytrail_actors::hub::HubState;
use skytrail_actors::live::LiveQueriesState;
use skytrail_actors::push::PushState;

use super::Exposition;
use crate::parts::States;

pub(super) fn write_push(text: &mut Exposition, services: &[PushState]) {
    let mut family = text.metric("skytrail_push_total", "Pushes to devices, by outcome.");
    type Metric = fn(&PushState) -> u64;
    let outcomes: [(&str, Metric); 7] = [
        ("sent", |it| it.num_sent),
        ("failed", |it| it.num_failed),
        ("unreachable", |it| it.num_unreachable),
        ("dropped", |it| it.num_dropped),
        ("retried", |it| it.num_retried),
        ("expired", |it| it.num_expired),
        ("withdrawn", |it| it.num_withdrawn),
    ];
    for service in services {
        for (outcome, of) in outcomes {
            let labels = [("service", service.service), ("outcome", outcome)];
            family.labelled(&labels, of(service));
        }
    }
    let figures: [(&str, &str, Metric); 5] = [
        (
            "skytrail_push_unregistered_total",
            "Devices deleted because their service no longer knows them.",
            |it| it.num_unregistered,
        ),
        (
            "skytrail_push_queued",
            "Waiting pushes, including those that wait for a retry.",
            |it| it.num_queued as u64,
        ),
        ("skytrail_push_in_flight", "Pushes in flight.", |it| {
            it.num_in_flight as u64
        }),
        (
            "skytrail_push_kept",
            "Waiting pushes that are stored and survive a crash.",
            |it| it.num_kept,
        ),
        (
            "skytrail_push_held",
            "1 while a failed service receives no pushes, or only one as a trial.",
            |it| it.is_held.into(),
        ),
    ];
    for (name, help, of) in figures {
        let mut family = text.metric(name, help);
        for service in services {
            family.labelled(&[("service", service.service)], of(service));
        }
    }
}

pub(super) fn write_notices(text: &mut Exposition, states: &States) {
    let notices = states.notices.as_ref();
    text.metric(
        "skytrail_notices_lag_events",
        "Events whose subscribers have not been told yet.",
    )
    .maybe(notices.map(|it| it.lag_events));
    text.metric(
        "skytrail_notices_lag_seconds",
        "Age of the oldest commit whose subscribers have not been told yet.",
    )
    .maybe(notices.map(|it| it.lag_seconds));
}

pub(super) fn write_live(text: &mut Exposition, states: &States) {
    let live = states.live.as_ref();
    let lag = live.map(|it| states.log.head.saturating_sub(it.position));
    text.metric(
        "skytrail_live_lag_events",
        "Events that live queries have not processed yet.",
    )
    .maybe(lag);
    type Metric = fn(&LiveQueriesState) -> u64;
    let figures: [(&str, &str, Metric); 10] = [
        (
            "skytrail_live_connections",
            "Connections that follow queries.",
            |it| it.num_listeners as u64,
        ),
        (
            "skytrail_live_subscriptions",
            "Live queries that are followed.",
            |it| it.num_subscriptions as u64,
        ),
        (
            "skytrail_live_views",
            "Distinct live queries, by query and user.",
            |it| it.num_views as u64,
        ),
        ("skytrail_live_loads_total", "Results loaded.", |it| {
            it.num_loads
        }),
        (
            "skytrail_live_replays_total",
            "Resumed subscriptions that continued from the log.",
            |it| it.num_replays,
        ),
        (
            "skytrail_live_resets_total",
            "Resumed subscriptions that were sent the whole result again.",
            |it| it.num_resets,
        ),
        (
            "skytrail_live_frames_total",
            "Messages sent to connections.",
            |it| it.num_frames,
        ),
        (
            "skytrail_live_slow_total",
            "Connections closed because the client did not read.",
            |it| it.num_slow,
        ),
        (
            "skytrail_live_refused_total",
            "Connections closed because their users may no longer listen.",
            |it| it.num_refused,
        ),
        (
            "skytrail_live_failures_total",
            "Changes that could not be read, so results were loaded again.",
            |it| it.num_failures,
        ),
    ];
    for (name, help, of) in figures {
        text.metric(name, help).maybe(live.map(|it| of(&it.state)));
    }
}

pub(super) fn write_hubs(text: &mut Exposition, hubs: &[(&str, Option<HubState>)]) {
    type Metric = fn(&HubState) -> u64;
    let figures: [(&str, &str, Metric); 5] = [
        ("skytrail_hub_sockets", "Sockets connected.", |it| {
            it.num_listeners as u64
        }),
        (
            "skytrail_hub_channels",
            "Channels with subscribers.",
            |it| it.num_channels as u64,
        ),
        (
            "skytrail_hub_published_total",
            "Messages published.",
            |it| it.num_published,
        ),
        (
            "skytrail_hub_delivered_total",
            "Messages put into sockets' queues.",
            |it| it.num_delivered,
        ),
        (
            "skytrail_hub_dropped_total",
            "Sockets closed because the client did not read.",
            |it| it.num_dropped,
        ),
    ];
    for (name, help, of) in figures {
        let mut family = text.metric(name, help);
        for (hub, state) in hubs {
            if let Some(state) = state {
                family.labelled(&[("hub", hub)], of(state));
            }
        }
    }
}
