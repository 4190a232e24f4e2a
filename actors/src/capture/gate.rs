//! Where reads and saves wait for what SQL has changed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::TypeName;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{CaptureSource, Span, UniqueSets};

/// How long a request waits for the outbox to be ingested.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a refused request is reported, unless the outbox is empty before.
const REPORTED: Duration = Duration::from_secs(60);

/// The state that is reported about the ingestion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CaptureState {
    /// Whether the outbox is read.
    pub is_active: bool,
    /// Transactions that were ingested into the log since the start.
    pub num_transactions: u64,
    /// Rows that could not be ingested, since the start.
    pub num_parked: u64,
    /// Attempts to ingest the outbox that failed.
    pub num_failures: u64,
    /// Whether the last attempt failed, or something is not captured.
    pub is_failing: bool,
    /// What is not captured, and why.
    pub reason: Option<String>,
}

/// See the module's overview. Cheap to clone; a gate that nobody serves lets everybody through.
#[derive(Clone, Debug, Default)]
pub struct CaptureGate(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_active: AtomicBool,
    is_served: AtomicBool,
    source: OnceLock<Source>,
    scans: AtomicU64,
    rounds: AtomicU64,
    seen: watch::Sender<Seen>,
    scan_requested: Notify,
    round_requested: Notify,
    is_refusing: AtomicBool,
    last_refusal: Mutex<Option<Instant>>,
    missed: AtomicU64,
    /// What is in the outbox and in the log: transactions, each up to a row.
    in_log: Mutex<Vec<(u64, u64)>>,
    num_transactions: AtomicU64,
    num_parked: AtomicU64,
    num_failures: AtomicU64,
    uncaptured: Mutex<Option<String>>,
}

/// The database that others write.
struct Source(Arc<dyn CaptureSource>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// What waiting requests are told.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The last scan that succeeded.
    scan: u64,
    /// What it found.
    spans: Vec<Span>,
    /// The last scan that failed.
    failed_scan: u64,
    /// The last round that failed.
    failed_round: u64,
    is_failing: bool,
}

impl Seen {
    /// Whether the last scan of the outbox failed.
    fn is_blind(&self) -> bool {
        self.failed_scan > self.scan
    }

    /// Returns the spans that matter to a request for these types; all spans without types.
    fn of<'a>(&'a self, types: Option<&'a BTreeSet<TypeName>>) -> impl Iterator<Item = &'a Span> {
        self.spans.iter().filter(move |span| {
            let both = types.zip(span.record_type.as_ref());
            both.is_none_or(|(types, name)| types.contains(name))
        })
    }
}

impl CaptureGate {
    /// Waits until everything that SQL had committed before to records of these types is in the
    /// log.
    ///
    /// While the database is away, only the first request waits, and finds that out; the log is
    /// what counts.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn await_captured(&self, types: &BTreeSet<TypeName>) -> Result<(), ApiError> {
        match self.is_active() {
            true => self.await_outbox(Some(types)).await.map(drop),
            false => Ok(()),
        }
    }

    /// Waits until everything that SQL had committed before is in the log, for callers that must
    /// not continue without it.
    ///
    /// # Errors
    /// It takes too long, or something could not be ingested.
    pub async fn drain(&self) -> Result<(), ApiError> {
        if self.is_served() && !self.await_outbox(None).await? {
            return Err(late());
        }
        Ok(())
    }

    /// Waits until what is in the outbox by now has left it; returns false if it could not be
    /// ingested.
    async fn await_outbox(&self, types: Option<&BTreeSet<TypeName>>) -> Result<bool, ApiError> {
        match tokio::time::timeout(DEADLINE, self.is_ingested(types)).await {
            Ok(is_ingested) => Ok(is_ingested),
            Err(_late) => {
                *self.0.last_refusal.lock() = Some(Instant::now());
                if !self.0.is_refusing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        seconds = DEADLINE.as_secs(),
                        "requests are refused: changes made by SQL arrive faster than they are \
                         imported"
                    );
                }
                Err(late())
            }
        }
    }

    async fn is_ingested(&self, types: Option<&BTreeSet<TypeName>>) -> bool {
        // A scan or round that has begun may have read the outbox already.
        let scan = self.0.scans.load(Ordering::Acquire) + 1;
        let round = self.0.rounds.load(Ordering::Acquire) + 1;
        let has_failed = |seen: &Seen| seen.failed_scan >= scan || seen.failed_round >= round;
        let mut seen = self.0.seen.subscribe();
        self.0.scan_requested.notify_one();
        if types.is_some() && seen.borrow().is_blind() {
            return false;
        }
        let scanned = seen.wait_for(|seen| seen.scan >= scan || has_failed(seen));
        let until = match scanned.await {
            Ok(seen) if has_failed(&seen) => return false,
            Ok(seen) => seen.of(types).map(|span| span.last).max(),
            Err(_) => return false,
        };
        let Some(until) = until else {
            return true;
        };
        self.0.round_requested.notify_one();
        let is_behind = |seen: &Seen| seen.of(types).all(|span| span.first > until);
        let taken = seen.wait_for(|seen| is_behind(seen) || has_failed(seen));
        taken.await.is_ok_and(|seen| is_behind(&seen))
    }

    /// Whether others can write by SQL at all.
    pub fn is_served(&self) -> bool {
        self.0.is_served.load(Ordering::Relaxed)
    }

    pub(super) fn serve(&self) {
        self.0.is_served.store(true, Ordering::Relaxed);
    }

    /// From now on, the constraints in this database count.
    pub(super) fn set_source(&self, source: Arc<dyn CaptureSource>) {
        let _ = self.0.source.set(Source(source));
    }

    /// Lists the fields that are unique by constraints in the database, as of now.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn unique_sets(&self) -> Result<UniqueSets, ApiError> {
        match self.0.source.get() {
            Some(Source(source)) => Ok(source.unique_sets().await?),
            None => Ok(UniqueSets::new()),
        }
    }

    /// Returns the transactions that are in the log, each up to a row, though maybe still in the
    /// outbox. Nobody has to wait for these.
    pub(super) fn in_log(&self) -> Vec<(u64, u64)> {
        self.0.in_log.lock().clone()
    }

    pub(super) fn set_in_log(&self, in_log: Vec<(u64, u64)>) {
        *self.0.in_log.lock() = in_log;
    }

    /// The highest position that a request waited for in vain.
    pub(super) fn missed(&self) -> &AtomicU64 {
        &self.0.missed
    }

    /// Returns the state that is reported about the ingestion.
    pub fn state(&self) -> CaptureState {
        let shared = &self.0;
        let reason = shared.uncaptured.lock().clone();
        CaptureState {
            is_active: shared.is_active.load(Ordering::Relaxed),
            num_transactions: shared.num_transactions.load(Ordering::Relaxed),
            num_parked: shared.num_parked.load(Ordering::Relaxed),
            num_failures: shared.num_failures.load(Ordering::Relaxed),
            is_failing: shared.seen.borrow().is_failing || reason.is_some(),
            reason,
        }
    }

    /// Returns that requests are refused at present, if any were lately.
    pub fn refusal_trouble(&self) -> Option<String> {
        let last = (*self.0.last_refusal.lock())?;
        (last.elapsed() < REPORTED).then(|| {
            let seconds = DEADLINE.as_secs();
            format!(
                "requests are refused: after {seconds} s, changes made by SQL are not imported yet"
            )
        })
    }

    /// Whether there is anything to wait for at all.
    pub(crate) fn is_active(&self) -> bool {
        self.0.is_active.load(Ordering::Acquire)
    }

    /// From now on, requests have something to wait for.
    pub(super) fn set_active(&self) {
        self.0.is_active.store(true, Ordering::Release);
    }

    /// Requests a scan of the outbox.
    pub(super) fn request_scan(&self) {
        self.0.scan_requested.notify_one();
    }

    /// Waits until somebody requests a scan.
    pub(super) async fn scan_requested(&self) {
        self.0.scan_requested.notified().await;
    }

    /// Begins a scan.
    pub(super) fn begin_scan(&self) -> u64 {
        self.0.scans.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Ends a scan with what it found; `None` if it failed.
    pub(super) fn end_scan(&self, scan: u64, found: Option<Vec<Span>>) {
        if found.as_ref().is_some_and(Vec::is_empty) {
            self.0.is_refusing.store(false, Ordering::Relaxed);
            *self.0.last_refusal.lock() = None;
        }
        self.0.seen.send_modify(|seen| match found {
            Some(spans) => {
                seen.scan = scan;
                seen.spans = spans;
            }
            None => seen.failed_scan = scan,
        });
    }

    /// Waits until somebody requests a round.
    pub(super) async fn round_requested(&self) {
        self.0.round_requested.notified().await;
    }

    /// Begins a round.
    pub(super) fn begin_round(&self) -> u64 {
        self.0.rounds.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Ends a round.
    pub(super) fn end_round(&self, round: u64, is_failed: bool) {
        let failures = &self.0.num_failures;
        failures.fetch_add(u64::from(is_failed), Ordering::Relaxed);
        self.0.seen.send_modify(|seen| {
            seen.is_failing = is_failed;
            if is_failed {
                seen.failed_round = round;
            }
        });
    }

    /// Records what is not captured.
    pub(super) fn set_uncaptured(&self, reasons: &[String]) {
        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        let mut current = self.0.uncaptured.lock();
        if let Some(reason) = reason.as_ref().filter(|_| *current != reason) {
            tracing::warn!(reason, "some changes made by SQL are not captured");
        }
        *current = reason;
    }

    pub(super) fn count(&self, num_transactions: u64, num_parked: usize) {
        let parked = u64::try_from(num_parked).unwrap_or(u64::MAX);
        let counters = &self.0;
        counters
            .num_transactions
            .fetch_add(num_transactions, Ordering::Relaxed);
        counters.num_parked.fetch_add(parked, Ordering::Relaxed);
    }
}

fn late() -> ApiError {
    ApiError::overloaded("the import of SQL changes")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn types(name: &str) -> BTreeSet<TypeName> {
        BTreeSet::from([TypeName::new(name)])
    }

    fn span(name: &str, first: u64, last: u64) -> Span {
        Span {
            record_type: Some(TypeName::new(name)),
            first,
            last,
        }
    }

    fn tell(gate: &CaptureGate, spans: Vec<Span>) {
        let scan = gate.begin_scan();
        gate.end_scan(scan, Some(spans));
    }

    #[tokio::test]
    async fn who_waits_is_held_up_by_what_was_there_of_his_types_only() {
        let gate = CaptureGate::default();
        gate.set_active();
        let (notes, pages) = (types("note"), types("page"));
        let mut for_notes = Box::pin(gate.await_captured(&notes));
        let mut for_pages = Box::pin(gate.await_captured(&pages));
        assert!(for_notes.as_mut().now_or_never().is_none(), "no scan yet");
        assert!(for_pages.as_mut().now_or_never().is_none());
        tell(&gate, vec![span("page", 3, 7)]);
        assert_eq!(for_notes.as_mut().now_or_never(), Some(Ok(())));
        assert!(for_pages.as_mut().now_or_never().is_none());
        // More has arrived.
        tell(&gate, vec![span("page", 7, 90), span("note", 91, 92)]);
        assert!(for_pages.as_mut().now_or_never().is_none());
        tell(&gate, vec![span("page", 8, 99)]);
        assert_eq!(for_pages.as_mut().now_or_never(), Some(Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn that_requests_are_refused_is_reported_until_the_outbox_is_empty_or_a_while_later() {
        let gate = CaptureGate::default();
        gate.set_active();
        let notes = types("note");
        for is_emptied in [true, false] {
            assert_eq!(gate.refusal_trouble(), None);
            assert!(gate.await_captured(&notes).await.is_err());
            tell(&gate, vec![span("note", 3, 7)]);
            let trouble = gate.refusal_trouble().unwrap();
            assert!(trouble.contains("requests are refused"), "{trouble}");
            if is_emptied {
                tell(&gate, Vec::new());
            } else {
                tokio::time::advance(REPORTED).await;
            }
            assert_eq!(gate.refusal_trouble(), None);
        }
    }

    #[tokio::test]
    async fn a_scan_that_had_begun_before_does_not_count() {
        let gate = CaptureGate::default();
        gate.set_active();
        let before = gate.begin_scan();
        let notes = types("note");
        let mut waiting = Box::pin(gate.await_captured(&notes));
        assert!(waiting.as_mut().now_or_never().is_none());
        gate.end_scan(before, Some(Vec::new()));
        assert!(waiting.as_mut().now_or_never().is_none());
        tell(&gate, Vec::new());
        assert_eq!(waiting.as_mut().now_or_never(), Some(Ok(())));
    }

    #[tokio::test]
    async fn while_nobody_can_scan_only_the_first_waits() {
        let gate = CaptureGate::default();
        gate.serve();
        gate.set_active();
        let notes = types("note");
        let mut first = Box::pin(gate.await_captured(&notes));
        assert!(first.as_mut().now_or_never().is_none());
        let scan = gate.begin_scan();
        gate.end_scan(scan, None);
        assert_eq!(first.as_mut().now_or_never(), Some(Ok(())));
        while gate.scan_requested().now_or_never().is_some() {}
        assert_eq!(gate.await_captured(&notes).now_or_never(), Some(Ok(())));
        // Scans continue all the same, and a caller that must know waits for one.
        assert!(gate.scan_requested().now_or_never().is_some());
        let mut draining = Box::pin(gate.drain());
        assert!(draining.as_mut().now_or_never().is_none());
        tell(&gate, Vec::new());
        assert_eq!(draining.as_mut().now_or_never(), Some(Ok(())));
        assert!(gate.await_captured(&notes).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_failure_lets_readers_through_and_holds_back_who_must_know() {
        let gate = CaptureGate::default();
        gate.serve();
        gate.set_active();
        let notes = types("note");
        let mut reading = Box::pin(gate.await_captured(&notes));
        let mut draining = Box::pin(gate.drain());
        assert!(reading.as_mut().now_or_never().is_none());
        assert!(draining.as_mut().now_or_never().is_none());
        tell(&gate, vec![span("note", 1, 1)]);
        assert!(reading.as_mut().now_or_never().is_none());
        let round = gate.begin_round();
        gate.end_round(round, true);
        assert_eq!(reading.as_mut().now_or_never(), Some(Ok(())));
        assert!(
            draining
                .as_mut()
                .now_or_never()
                .is_some_and(|it| it.is_err())
        );
    }
}
