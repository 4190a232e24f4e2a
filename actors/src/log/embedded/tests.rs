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
