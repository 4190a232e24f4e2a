//! Drives one server for a while: every connection sends its next request when it has its answer.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::http::{Client, Response};

/// A kind of request, written anew each time, and what a good answer looks like.
pub(crate) trait Job {
    /// Writes the whole next request into an empty buffer.
    fn write_request(&self, into: &mut Vec<u8>);

    fn is_success(&self, response: &Response<'_>) -> bool;

    /// How many items (mostly records) one request stands for.
    fn weight(&self) -> u64 {
        1
    }
}

/// The result of one or more rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latencies_us: Vec<u32>,
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.elapsed += other.elapsed;
        self.latencies_us.extend(other.latencies_us);
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    fn fail(&mut self, response: &Response<'_>) {
        self.failures += 1;
        if self.first_failure.is_none() {
            let start = &response.body[..response.body.len().min(500)];
            let text = format!("{} {}", response.status, String::from_utf8_lossy(start));
            self.first_failure = Some(text);
        }
    }
}

/// Stops when the time is over; waits for every request that was begun, and counts it.
pub(crate) async fn drive_for(clients: &mut [Client], job: &impl Job, time: Duration) -> Outcome {
    let start = Instant::now();
    drive_while(clients, job, |now| now.duration_since(start) < time).await
}

/// Stops when `times` requests are answered.
pub(crate) async fn drive_times(clients: &mut [Client], job: &impl Job, times: u64) -> Outcome {
    let left = std::cell::Cell::new(times);
    drive_while(clients, job, |_| {
        let more = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        more
    })
    .await
}

async fn drive_while(
    clients: &mut [Client],
    job: &impl Job,
    more: impl Fn(Instant) -> bool,
) -> Outcome {
    let start = Instant::now();
    let outcomes = join_all(
        clients
            .iter_mut()
            .map(|client| drive_one(client, job, &more)),
    )
    .await;
    let mut total = Outcome::default();
    for outcome in outcomes {
        total.add(outcome);
    }
    total.elapsed = start.elapsed();
    total
}

async fn drive_one(
    client: &mut Client,
    job: &impl Job,
    more: &impl Fn(Instant) -> bool,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut request = Vec::with_capacity(1024);
    let mut begun = Instant::now();
    while more(begun) {
        request.clear();
        job.write_request(&mut request);
        let response = client.send(&request).await.expect("the server answers");
        let now = Instant::now();
        let latency_us = now.duration_since(begun).as_micros();
        outcome.requests += 1;
        outcome
            .latencies_us
            .push(u32::try_from(latency_us).unwrap_or(u32::MAX));
        if !job.is_success(&response) {
            outcome.fail(&response);
        }
        begun = now;
    }
    outcome
}
