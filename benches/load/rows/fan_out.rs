//! How many messages a second reach subscribers, when one publishes to many?

use std::time::Instant;

use futures_util::future::join_all;

use crate::compare::{OurPart, Sums};
use crate::drive::Outcome;
use crate::report::{Aim, Report};
use crate::rig::{Loaded, Rig};
use crate::websocket::WebSocket;

const SUBSCRIBERS: usize = 64;
/// Messages that are sent before the first of them must have arrived; less than any queue holds.
const BURST: usize = 8;

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report) {
    let loaded = rig.fresh_server().await;
    let mut ours = Channel::on_ours(&loaded).await;
    let mut bare = Channel::on_bare(rig).await;
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
    let name = format!("pub/sub, 1 to {SUBSCRIBERS}");
    report.rate(&name, "no: at most once", Aim::default(), &sums.finish(1));
}

/// One publisher and its subscribers.
struct Channel {
    publisher: WebSocket,
    subscribers: Vec<WebSocket>,
    frame: String,
}

impl Channel {
    async fn on_ours(loaded: &Loaded) -> Self {
        let target = format!("/pubsub?api_key={}", loaded.session.api_key);
        let connect = || async {
            WebSocket::connect(loaded.server.addr, &target)
                .await
                .unwrap()
        };
        let mut subscribers = Vec::new();
        for number in 0..SUBSCRIBERS {
            let mut socket = connect().await;
            // Nobody says when a subscription has begun, but frames are taken in order.
            let probe = format!("probe-{number}");
            for channel in [&probe, "load"] {
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
        }
    }

    async fn on_bare(rig: &Rig<'_>) -> Self {
        let connect =
            |target| async move { WebSocket::connect(rig.bare.addr, target).await.unwrap() };
        let mut subscribers = Vec::new();
        for _ in 0..SUBSCRIBERS {
            subscribers.push(connect("/pubsub").await);
        }
        Self {
            publisher: connect("/pubsub?publish").await,
            subscribers,
            frame: frame(""),
        }
    }

    /// Publishes bursts; each must have reached everyone before the next.
    async fn publish_for(&mut self, rig: &Rig<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let start = Instant::now();
        while start.elapsed() < rig.options.round_time() {
            let begun = Instant::now();
            self.publisher
                .send(&self.frame, BURST)
                .await
                .expect("the server reads");
            let received = join_all(self.subscribers.iter_mut().map(|s| s.receive(BURST))).await;
            for text in received {
                let text = text.expect("the server sends");
                outcome.failures += u64::from(memchr::memmem::find(&text, b"forty").is_none());
            }
            let us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
            outcome.latencies_us.push(us);
            outcome.requests += (BURST * SUBSCRIBERS) as u64;
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
