use std::sync::mpsc::{Receiver, Sender, channel};

use skytrail_schema::time::Timestamp;

use super::*;
use crate::log::written::append_some;
use crate::testkit::disk::MemoryDisk;

/// A log with a lock in a folder, and both ends of a gate that stops it before each segment that it
/// rewrites.
struct Gated {
    log: Arc<EmbeddedLog>,
    disk: MemoryDisk,
    folder: tempfile::TempDir,
    arrived: Mutex<Receiver<()>>,
    go: Sender<()>,
}

impl Gated {
    async fn written() -> Self {
        let (disk, folder) = (MemoryDisk::default(), tempfile::tempdir().unwrap());
        let layout = JournalOptions {
            segment_bytes: 4 << 10,
            step_bytes: 1 << 10,
            signed: None,
        };
        let mut opened = OpenedLog::on_disk(Arc::new(disk.clone()), layout).unwrap();
        let lock = File::create(folder.path().join("lock")).unwrap();
        lock.try_lock().unwrap();
        opened.lock = Some(lock);
        let now = Arc::new(|| Timestamp::from_micros(1));
        let options = LogOptions::new(now, Arc::new(|_| ()));
        let log = opened.start(options, Vec::new(), Default::default());
        let log = Arc::new(log.unwrap());
        append_some(&*log, 100).await;
        let (arrive, arrived) = channel();
        let (go, may_go) = channel();
        let may_go = Mutex::new(may_go);
        disk.set_on_create(move |name| {
            if name.ends_with(".erasing") {
                arrive.send(()).unwrap();
                may_go.lock().recv().unwrap();
            }
        });
        Self {
            log,
            disk,
            folder,
            arrived: Mutex::new(arrived),
            go,
        }
    }

    /// Starts to remove events from the first two segments, and waits until the first is being
    /// rewritten.
    #[expect(clippy::disallowed_methods, reason = "the test waits for its end")]
    fn begin(&self) -> tokio::task::JoinHandle<Result<Rewritten, BlankError>> {
        let log = Arc::clone(&self.log);
        let positions: Positions = (1..=40).collect();
        let blanking = tokio::spawn(async move { log.blank(&positions).await });
        self.arrived.lock().recv().unwrap();
        blanking
    }

    fn is_locked(&self) -> bool {
        let lock = File::open(self.folder.path().join("lock")).unwrap();
        lock.try_lock().is_err()
    }

    fn is_being_written(&self) -> bool {
        let names = self.disk.list().unwrap();
        names.iter().any(|name| name.ends_with(".erasing"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_is_held_until_a_rewrite_has_ended() {
    let gated = Gated::written().await;
    let blanking = gated.begin();
    gated.log.close(Duration::ZERO);
    assert!(gated.is_locked(), "another would write the same segment");
    gated.go.send(()).unwrap();
    assert!(blanking.await.unwrap().is_err(), "it does not go on");
    assert!(gated.arrived.lock().try_recv().is_err());
    assert!(!gated.is_locked() && !gated.is_being_written());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_waits_for_the_segment_that_is_being_written() {
    let gated = Gated::written().await;
    let blanking = gated.begin();
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| {
            gated.log.close(Duration::from_secs(60));
            assert!(!gated.is_locked() && !gated.is_being_written());
        });
        while !gated.log.rewriting.is_closing.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        gated.go.send(()).unwrap();
        closing.join().unwrap();
    });
    assert!(blanking.await.unwrap().is_err());
}

#[tokio::test]
async fn memory_and_files_give_the_same_and_memory_alone_has_the_tail() {
    let options = JournalOptions {
        segment_bytes: 64 << 10,
        step_bytes: 16 << 10,
        signed: None,
    };
    let opened = OpenedLog::on_disk(Arc::new(MemoryDisk::default()), options).unwrap();
    let now = Arc::new(|| Timestamp::from_micros(1));
    let options = LogOptions {
        recent_bytes: 64 << 10,
        ..LogOptions::new(now, Arc::new(|_| ()))
    };
    let log = opened
        .start(options, Vec::new(), Default::default())
        .unwrap();
    append_some(&log, 1000).await;
    let recent = (1..=1000).find(|position| log.recent.read(*position, 1).is_some());
    let recent = recent.unwrap();
    assert!((3..990).contains(&recent), "{recent}");
    // Files may give fewer at once: they stop at the end of a segment.
    let ids = |commits: &[Arc<Commit>]| {
        let some = commits.iter().take(100);
        some.map(|commit| commit.id).collect::<Vec<_>>()
    };
    for from in [1, recent - 1, recent, recent + 1, 999, 1000, 1001] {
        for max_events in [1, 7, 300] {
            let read = log.read(from, max_events).await.unwrap();
            let on_disk = log.segments.read(from, max_events).unwrap();
            assert_eq!(ids(&read), ids(&on_disk), "{max_events} events from {from}");
        }
    }
    let positions = [1000, 3, recent, recent - 1, 990, recent - 2, 3];
    let read = log.read_each(&positions).await.unwrap();
    let firsts: Vec<_> = read.iter().map(|commit| commit.first_position()).collect();
    assert_eq!(firsts, positions);
    assert!(log.read_each(&[1000, 1001]).await.is_err());
}

#[tokio::test]
async fn who_waits_beyond_the_head_is_woken_by_a_commit_and_not_by_the_end() {
    let opened = OpenedLog::on_disk(Arc::new(MemoryDisk::default()), JournalOptions::default());
    let now = Arc::new(|| Timestamp::from_micros(1));
    let options = LogOptions::new(now, Arc::new(|_| ()));
    let log = opened
        .unwrap()
        .start(options, Vec::new(), Default::default())
        .unwrap();
    append_some(&log, 2).await;
    log.beyond(1).await;
    let mut beyond = Box::pin(log.beyond(2));
    assert!(futures_util::poll!(&mut beyond).is_pending());
    append_some(&log, 1).await;
    beyond.await;
    assert_eq!(log.head(), 3);
    let mut beyond = Box::pin(log.beyond(3));
    log.close(Duration::ZERO);
    assert!(futures_util::poll!(&mut beyond).is_pending());
    assert!(log.watch_head().wait_for(|head| *head > 3).await.is_err());
}
