//! Segments that are looked at while they are being written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use skytrail_actors::log::disk::DiskFile;
use skytrail_actors::log::journal::archive::Survey;
use skytrail_actors::testkit::disk::MemoryDisk;

use super::damage::{Instead, last_frame, last_segment, written};

/// What is done at each read, given its number, the file, the offset, and the buffer to fill.
type OnRead = Arc<dyn Fn(usize, &dyn DiskFile, u64, &mut [u8]) -> io::Result<()> + Send + Sync>;

/// A segment to which something happens while it is read.
struct WatchedFile {
    file: Arc<dyn DiskFile>,
    num_reads: AtomicUsize,
    on_read: OnRead,
}

impl DiskFile for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let number = self.num_reads.fetch_add(1, Ordering::Relaxed);
        (self.on_read)(number, &*self.file, offset, buffer)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

/// Looks at the last segment; returns where it ends.
fn surveyed(disk: MemoryDisk, on_read: OnRead) -> u64 {
    let watched = move |file| {
        let (num_reads, on_read) = (AtomicUsize::default(), Arc::clone(&on_read));
        Arc::new(WatchedFile {
            file,
            num_reads,
            on_read,
        }) as Arc<dyn DiskFile>
    };
    let disk = Instead {
        name: last_segment(&disk),
        disk,
        wrap: watched,
    };
    let survey = Survey::of(&disk).unwrap();
    assert_eq!(survey.damage, []);
    let last = survey.segments.last().unwrap();
    assert_eq!(last.check().unwrap().damage, []);
    last.end
}

#[tokio::test]
async fn groups_that_are_written_meanwhile_are_no_damage() {
    let (disk, _) = written().await;
    let end = last_frame(&disk.bytes(&last_segment(&disk))).end as u64;
    // In the first reads, nothing after `early` has been written. In one read, the start of the
    // bytes is older than their end.
    let early = 2000;
    for num_early in 0..12 {
        let on_read: OnRead = Arc::new(move |number, file, offset, buffer| {
            file.read_at(buffer, offset)?;
            let unwritten = match number {
                number if number < num_early => early..u64::MAX,
                number if number == num_early => early..early + 400,
                _ => return Ok(()),
            };
            let bytes = (offset..).zip(buffer);
            let unwritten = bytes.filter(|(at, _)| unwritten.contains(at));
            unwritten.for_each(|(_, byte)| *byte = 0);
            Ok(())
        });
        let found = surveyed(disk.clone(), on_read);
        assert!(found <= end && (found == end || num_early > 2), "{found}");
    }
}

#[tokio::test]
async fn a_segment_that_is_sealed_meanwhile_is_none_that_cannot_be_read() {
    let (disk, _) = written().await;
    let name = last_segment(&disk);
    let end = last_frame(&disk.bytes(&name)).end as u64;
    for at_read in 0..6 {
        let disk = disk.with_file(&name, |_| ());
        let on_read: OnRead = Arc::new(move |number, file, offset, buffer| {
            if number == at_read {
                file.set_len(end)?;
            }
            file.read_at(buffer, offset)
        });
        assert_eq!(surveyed(disk, on_read), end);
    }
}
