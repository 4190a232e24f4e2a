//! What clients are told: pushes, live queries, channels.

use skytrail_actors::hub::HubState;
use skytrail_actors::live::LiveQueriesState;
use skytrail_actors::push::PushState;

use super::Exposition;
use crate::parts::States;

pub(super) fn write_push(text: &mut Exposition, services: &[PushState]) {
    let mut family = text.counter(
        "skytrail_push_total",
        "Pushes to devices, by what became of them.",
    );
    type Figure = fn(&PushState) -> u64;
    let outcomes: [(&str, Figure); 5] = [
        ("sent", |it| it.num_sent),
        ("failed", |it| it.num_failed),
        ("dropped", |it| it.num_dropped),
        ("retried", |it| it.num_retried),
        ("expired", |it| it.num_expired),
    ];
    for service in services {
        for (outcome, of) in outcomes {
            let labels = [("service", service.service), ("outcome", outcome)];
            family.labelled(&labels, of(service));
        }
    }
    let mut write = |is_counter, name, help, of: Figure| {
        let mut family = if is_counter {
            text.counter(name, help)
        } else {
            text.gauge(name, help)
        };
        for service in services {
            family.labelled(&[("service", service.service)], of(service));
        }
    };
    let (counter, gauge) = (true, false);
    let name = "skytrail_push_unregistered_total";
    let help = "Devices forgotten because their service does not know them any more.";
    write(counter, name, help, |it| it.num_unregistered);
    let name = "skytrail_push_queued";
    let help = "Pushes that wait, those for another attempt included.";
    write(gauge, name, help, |it| it.num_queued as u64);
    let name = "skytrail_push_in_flight";
    write(gauge, name, "Pushes under way.", |it| {
        it.num_in_flight as u64
    });
    let name = "skytrail_push_kept";
    let help = "Pushes that a crash would not lose.";
    write(gauge, name, help, |it| it.num_kept);
    let name = "skytrail_push_held";
    let help = "1 while a service is not asked, or with one push only, because it failed.";
    write(gauge, name, help, |it| it.is_held.into());
}

pub(super) fn write_live(text: &mut Exposition, states: &States) {
    let live = states.live.as_ref();
    let lag = live.map(|it| states.log.head.saturating_sub(it.position));
    text.gauge(
        "skytrail_live_lag_events",
        "Events that live queries have not been told yet.",
    )
    .maybe(lag);
    let mut write = |is_counter, name, help, of: fn(&LiveQueriesState) -> u64| {
        let mut family = if is_counter {
            text.counter(name, help)
        } else {
            text.gauge(name, help)
        };
        family.maybe(live.map(|it| of(&it.state)));
    };
    let (counter, gauge) = (true, false);
    let name = "skytrail_live_connections";
    write(gauge, name, "Connections that follow queries.", |it| {
        it.num_listeners as u64
    });
    let name = "skytrail_live_subscriptions";
    write(gauge, name, "Queries that are followed.", |it| {
        it.num_subscriptions as u64
    });
    let name = "skytrail_live_views";
    write(
        gauge,
        name,
        "Different ones among them, by what is asked and as whom.",
        |it| it.num_views as u64,
    );
    let name = "skytrail_live_loads_total";
    write(counter, name, "Results looked up.", |it| it.num_loads);
    let name = "skytrail_live_replays_total";
    write(
        counter,
        name,
        "Absences made up for out of the log.",
        |it| it.num_replays,
    );
    let name = "skytrail_live_resets_total";
    write(
        counter,
        name,
        "Absences that could not be: the result was told anew.",
        |it| it.num_resets,
    );
    let name = "skytrail_live_frames_total";
    write(counter, name, "What connections were told.", |it| {
        it.num_frames
    });
    let name = "skytrail_live_slow_total";
    write(
        counter,
        name,
        "Connections ended because they did not read.",
        |it| it.num_slow,
    );
    let name = "skytrail_live_refused_total";
    write(
        counter,
        name,
        "Connections ended because their users may not listen any more.",
        |it| it.num_refused,
    );
    let name = "skytrail_live_failures_total";
    write(
        counter,
        name,
        "Changes that could not be read, so that results were looked up again.",
        |it| it.num_failures,
    );
}

pub(super) fn write_hubs(text: &mut Exposition, hubs: &[(&str, Option<HubState>)]) {
    let mut write = |is_counter, name, help, of: fn(&HubState) -> u64| {
        let mut family = if is_counter {
            text.counter(name, help)
        } else {
            text.gauge(name, help)
        };
        for (hub, state) in hubs {
            if let Some(state) = state {
                family.labelled(&[("hub", hub)], of(state));
            }
        }
    };
    let (counter, gauge) = (true, false);
    let name = "skytrail_hub_sockets";
    write(gauge, name, "Sockets connected.", |it| {
        it.num_listeners as u64
    });
    let name = "skytrail_hub_channels";
    write(gauge, name, "Channels that somebody hears.", |it| {
        it.num_channels as u64
    });
    let name = "skytrail_hub_published_total";
    write(counter, name, "Messages published.", |it| it.num_published);
    let name = "skytrail_hub_delivered_total";
    write(counter, name, "Messages put into sockets' queues.", |it| {
        it.num_delivered
    });
    let name = "skytrail_hub_dropped_total";
    write(
        counter,
        name,
        "Sockets closed because they did not read.",
        |it| it.num_dropped,
    );
}
