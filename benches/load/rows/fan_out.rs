//! How many messages per second reach subscribers, when one client publishes to many?

use std::time::Instant;

use futures_util::future::join_all;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::compare::{OurPart, Sums};
use crate::drive::Outcome;
use crate::report::{Aim, Report};
use crate::rig::{Loaded, Rig};
use crate::websocket::WebSocket;

/// A row: how many subscribe, and what part of the bare server's rate is the aim.
struct Row {
    subscribers: usize,
    aim: f64,
    /// Messages that are sent before the first of them must have arrived; less than any queue
    /// holds.
    burst: usize,
}

const ROWS: [Row; 3] = [
    Row {
        subscribers: 10,
        aim: 0.40,
        burst: 256,
    },
    Row {
        subscribers: 100,
        aim: 0.39,
        burst: 64,
    },
    Row {
        subscribers: 1000,
        aim: 0.43,
        burst: 16,
    },
];

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report) {
    raise_limit();
    let loaded = rig.fresh_server().await;
    for row in &ROWS {
        run_row(rig, report, &loaded, row).await;
    }
}

/// Every subscriber is an open file here, too.
pub(super) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a limit may be raised to the hard one");
}

async fn run_row(rig: &Rig<'_>, report: &mut Report, loaded: &Loaded, row: &Row) {
    let mut ours = Channel::on_ours(loaded, row).await;
    let mut bare = Channel::on_bare(rig, row).await;
    let mut sums = Sums::default();
    for round in 0..=rig.options.rounds() {
        let cpu_before = loaded.server.cpu_seconds();
        let outcome = ours.publish_for(rig).await;
        let cpu = loaded.server.cpu_seconds() - cpu_before;
        let settled = outcome.elapsed.as_secs_f64();
        let bare_cpu_before = rig.bare.cpu_seconds();
        let bare_outcome = bare.publish_for(rig).await;
        if round > 0 {
            let bare_cpu = rig.bare.cpu_seconds() - bare_cpu_before;
            sums.add(
                OurPart {
                    outcome,
                    settled,
                    cpu,
                },
                bare_outcome,
                bare_cpu,
            );
        }
    }
    let name = format!("pub/sub, 1 to {}", row.subscribers);
    let aim = Aim {
        min_ratio: Some(row.aim),
        ..Aim::default()
    };
    report.rate(&name, "no: at most once", aim, &sums.finish(1));
}

/// One publisher and its subscribers.
struct Channel {
    publisher: WebSocket,
    subscribers: Vec<WebSocket>,
    frame: String,
    burst: usize,
}

impl Channel {
    async fn on_ours(loaded: &Loaded, row: &Row) -> Self {
        let target = format!("/pubsub?api_key={}", loaded.session.api_key);
        let connect = || async {
            WebSocket::connect(loaded.server.addr, &target)
                .await
                .unwrap()
        };
        let mut subscribers = Vec::new();
        for number in 0..row.subscribers {
            let mut socket = connect().await;
            // The start of a subscription is not confirmed, but frames are handled in order.
            let probe = format!("probe-{number}");
            for channel in [&*probe, "load"] {
                socket
                    .send(&format!(r#"{{"action":"sub","channel":"{channel}"}}"#), 1)
                    .await
                    .unwrap();
            }
            let ping = format!(r#"{{"action":"pub","channel":"{probe}","data":{{"n":1}}}}"#);
            socket.send(&ping, 1).await.unwrap();
            socket.receive(1).await.unwrap();
            subscribers.push(socket);
        }
        Self {
            publisher: connect().await,
            subscribers,
            frame: frame("\"action\":\"pub\","),
            burst: row.burst,
        }
    }

    async fn on_bare(rig: &Rig<'_>, row: &Row) -> Self {
        let connect =
            |target| async move { WebSocket::connect(rig.bare.addr, target).await.unwrap() };
        let mut subscribers = Vec::new();
        for _ in 0..row.subscribers {
            subscribers.push(connect("/pubsub").await);
        }
        Self {
            publisher: connect("/pubsub?publish").await,
            subscribers,
            frame: frame(""),
            burst: row.burst,
        }
    }

    /// Publishes bursts; each must have reached every subscriber before the next.
    async fn publish_for(&mut self, rig: &Rig<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let start = Instant::now();
        while start.elapsed() < rig.options.round_time() {
            let begun = Instant::now();
            self.publisher
                .send(&self.frame, self.burst)
                .await
                .expect("the server reads");
            let received =
                join_all(self.subscribers.iter_mut().map(|s| s.receive(self.burst))).await;
            for text in received {
                let text = text.expect("the server sends");
                outcome.failures += u64::from(memchr::memmem::find(&text, b"forty").is_none());
            }
            let us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
            outcome.latencies_us.push(us);
            outcome.requests += (self.burst * self.subscribers.len()) as u64;
        }
        outcome.elapsed = start.elapsed();
        outcome
    }
}

fn frame(action: &str) -> String {
    format!(
        r#"{{{action}"channel":"load","data":{{"text":"a message of some forty letters, to all"}}}}"#
    )
}
