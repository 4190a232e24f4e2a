//! One job on our server and one on the bare one, in turns.

use crate::drive::{Job, Outcome, drive_for};
use crate::http::Client;
use crate::rig::{Loaded, Rig};
use crate::server::settle;
use crate::stats::{median, percentile};

/// The result of the rounds, in items (mostly records) per second.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) ours_per_s: f64,
    /// The same, including the time until a query sees everything: the sustainable rate.
    pub(crate) settled_per_s: f64,
    pub(crate) bare_per_s: f64,
    /// The median of the rounds' ratios.
    pub(crate) ratio: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Of our server, including everything that it does after the answer.
    pub(crate) cpu_per_1000: f64,
    pub(crate) bare_cpu_per_1000: f64,
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
}

/// Runs the rounds, with `connections` to each server, opened before.
pub(crate) async fn compare(
    rig: &Rig<'_>,
    loaded: &Loaded,
    connections: usize,
    ours: &impl Job,
    bare: &impl Job,
) -> Comparison {
    let mut our_clients = loaded.connect(connections).await;
    let mut bare_clients = Client::connect_many(rig.bare.addr, connections)
        .await
        .expect("connections");
    let mut sums = Sums::default();
    // The first round warms up both servers and is not counted.
    for round in 0..=rig.options.rounds() {
        let our_part = our_part(rig, loaded, &mut our_clients, ours).await;
        let cpu_before = rig.bare.cpu_seconds();
        let bare_outcome = drive_for(&mut bare_clients, bare, rig.options.round_time()).await;
        let bare_cpu = rig.bare.cpu_seconds() - cpu_before;
        if round > 0 {
            sums.add(our_part, bare_outcome, bare_cpu);
        }
    }
    sums.finish(ours.weight())
}

pub(crate) async fn our_part(
    rig: &Rig<'_>,
    loaded: &Loaded,
    clients: &mut [Client],
    job: &impl Job,
) -> OurPart {
    let cpu_before = loaded.server.cpu_seconds();
    let begun = std::time::Instant::now();
    let outcome = drive_for(clients, job, rig.options.round_time()).await;
    settle(clients, &loaded.session).await;
    let settled = begun.elapsed().as_secs_f64();
    OurPart {
        outcome,
        settled,
        cpu: loaded.server.cpu_seconds() - cpu_before,
    }
}

/// One round of our server.
pub(crate) struct OurPart {
    pub(crate) outcome: Outcome,
    /// Seconds from the first request until nothing was left to do.
    pub(crate) settled: f64,
    /// Processor seconds in that time.
    pub(crate) cpu: f64,
}

/// The rounds so far.
#[derive(Default)]
pub(crate) struct Sums {
    ours: Outcome,
    bare: Outcome,
    settled: f64,
    cpu: f64,
    bare_cpu: f64,
    ratios: Vec<f64>,
}

impl Sums {
    pub(crate) fn add(&mut self, ours: OurPart, bare: Outcome, bare_cpu: f64) {
        self.ratios.push(rate(&ours.outcome) / rate(&bare));
        self.settled += ours.settled;
        self.cpu += ours.cpu;
        self.bare_cpu += bare_cpu;
        self.ours.add(ours.outcome);
        self.bare.add(bare);
    }

    pub(crate) fn finish(mut self, weight: u64) -> Comparison {
        let weight = weight as f64;
        let thousands = |outcome: &Outcome| outcome.requests as f64 * weight / 1000.0;
        let mut ms = |share| f64::from(percentile(&mut self.ours.latencies_us, share)) / 1000.0;
        let (p50_ms, p99_ms) = (ms(0.5), ms(0.99));
        Comparison {
            ours_per_s: rate(&self.ours) * weight,
            settled_per_s: thousands(&self.ours) * 1000.0 / self.settled,
            bare_per_s: rate(&self.bare) * weight,
            ratio: median(&self.ratios),
            p50_ms,
            p99_ms,
            cpu_per_1000: self.cpu / thousands(&self.ours),
            bare_cpu_per_1000: self.bare_cpu / thousands(&self.bare),
            failures: self.ours.failures + self.bare.failures,
            first_failure: self.ours.first_failure.or(self.bare.first_failure),
        }
    }
}

fn rate(outcome: &Outcome) -> f64 {
    outcome.requests as f64 / outcome.elapsed.as_secs_f64()
}
