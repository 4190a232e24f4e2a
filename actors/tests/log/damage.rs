//! Torn tails, flipped bits and zeroed pages of the journal.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use skytrail_actors::log::EventLog;
use skytrail_actors::log::disk::{Disk, DiskFile};
use skytrail_actors::log::journal::Segments;
use skytrail_actors::log::journal::archive::{SegmentError, Survey};
use skytrail_actors::testkit::disk::MemoryDisk;
use skytrail_schema::event::Commit;
use skytrail_schema::positions::Positions;

use super::world::{blind, close, fill, open, read_all};

/// Returns a log with some segments, and what was acknowledged.
pub async fn written() -> (MemoryDisk, Vec<Arc<Commit>>) {
    let disk = MemoryDisk::default();
    let log = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>)).unwrap();
    let acknowledged = fill(&log, 400).await;
    close(&log);
    (disk, acknowledged)
}

pub fn last_segment(disk: &MemoryDisk) -> String {
    disk.list().unwrap().pop().unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_read_again_after_reopening() {
    let (disk, acknowledged) = written().await;
    assert!(disk.list().unwrap().len() > 3, "several segments");
    let log = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>)).unwrap();
    assert_eq!(read_all(&log).await, acknowledged);
    let next = log.append(blind(1, 1)).await.unwrap();
    assert_eq!(
        next.first_position(),
        acknowledged.last().unwrap().last_position() + 1
    );
    close(&log);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    Segments::open(&disk)
        .unwrap()
        .verify(&BTreeMap::new(), |_| {})
        .unwrap();
}

/// A file that its writer truncates while its unused rest is being read.
struct CutMeanwhile {
    file: Arc<dyn DiskFile>,
    end: u64,
}

impl DiskFile for CutMeanwhile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.end {
            self.file.set_len(self.end)?;
        }
        self.file.read_at(buffer, offset)
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

/// A disk on which another file stands in for one of its files.
pub(super) struct Instead<W> {
    pub(super) disk: MemoryDisk,
    pub(super) name: String,
    /// Creates the stand-in.
    pub(super) wrap: W,
}

impl<W> Disk for Instead<W>
where
    W: Fn(Arc<dyn DiskFile>) -> Arc<dyn DiskFile> + Send + Sync + 'static,
{
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(name)?;
        if name != self.name {
            return Ok(file);
        }
        Ok((self.wrap)(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }
}

#[tokio::test]
async fn a_log_can_be_read_while_its_last_segment_is_sealed() {
    let (disk, acknowledged) = written().await;
    let last = last_segment(&disk);
    let end = last_frame(&disk.bytes(&last)).end as u64;
    assert!(end < disk.bytes(&last).len() as u64);
    let disk: Arc<dyn Disk> = Arc::new(Instead {
        disk,
        name: last,
        wrap: move |file| Arc::new(CutMeanwhile { file, end }) as Arc<dyn DiskFile>,
    });
    let segments = Segments::open(&disk).unwrap();
    let report = segments.verify(&BTreeMap::new(), |_| {}).unwrap();
    assert_eq!(report.head, acknowledged.last().unwrap().last_position());
}

#[tokio::test]
async fn every_cut_of_the_tail_opens_with_whole_commits_only() {
    let (disk, acknowledged) = written().await;
    let name = last_segment(&disk);
    let end = last_frame(&disk.bytes(&name)).end;
    for cut in end.saturating_sub(4096).max(80)..end {
        let torn = disk.with_file(&name, |bytes| bytes[cut..].fill(0));
        let log = open(&(Arc::new(torn) as Arc<dyn Disk>));
        let log = log.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let found = read_all(&log).await;
        assert_eq!(found, acknowledged[..found.len()], "cut at {cut}");
        let next = log.append(blind(1, 1)).await.unwrap();
        assert_eq!(
            next.first_position(),
            found.last().unwrap().last_position() + 1
        );
        close(&log);
    }
}

/// Opens a damaged log and reads it: either everything that is there is right, or an error names
/// the place. If something is missing without an error, it must be the tail only.
async fn examine(disk: MemoryDisk, acknowledged: &[Arc<Commit>], damage: &str) {
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let opened = Segments::open(&disk);
    let segments = match opened {
        Ok(segments) => segments,
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains("segment=") && text.contains("offset="),
                "{damage}: {text}"
            );
            return;
        }
    };
    match segments.verify(&BTreeMap::new(), |_| {}) {
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains("segment=") && text.contains("offset="),
                "{damage}: {text}"
            );
        }
        Ok(report) => {
            let last = acknowledged.last().unwrap().last_position();
            // Damage that looks like a torn write may cost the last group only.
            assert!(
                last - report.head <= 8,
                "{damage}: ends at {} of {last}",
                report.head
            );
            let log = open(&disk).unwrap();
            let found = read_all(&log).await;
            assert_eq!(found, acknowledged[..found.len()], "{damage}");
            close(&log);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn a_flipped_bit_gives_no_wrong_answer(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        runtime().block_on(async {
            let (disk, acknowledged) = written().await;
            let names = disk.list().unwrap();
            let name = &names[file.index(names.len())];
            let bytes = disk.bytes(name);
            let last_used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            let at = at.index(last_used + 1);
            let damaged = disk.with_file(name, |bytes| bytes[at] ^= 1 << bit);
            examine(damaged, &acknowledged, &format!("bit {bit} of {name}:{at}")).await;
        });
    }

    #[test]
    fn a_zeroed_page_gives_no_wrong_answer(file in any::<prop::sample::Index>(), page in 0_usize..4) {
        runtime().block_on(async {
            let (disk, acknowledged) = written().await;
            let names = disk.list().unwrap();
            let name = &names[file.index(names.len())];
            let damaged = disk.with_file(name, |bytes| {
                let start = (page * 4096).min(bytes.len());
                let end = (start + 4096).min(bytes.len());
                bytes[start..end].fill(0);
            });
            examine_zeroed(damaged, &acknowledged, &format!("page {page} of {name}")).await;
        });
    }
}

/// A zeroed end of the last segment looks like its end; zeros before that are noticed.
async fn examine_zeroed(disk: MemoryDisk, acknowledged: &[Arc<Commit>], damage: &str) {
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let Ok(segments) = Segments::open(&disk) else {
        return;
    };
    if segments.verify(&BTreeMap::new(), |_| {}).is_ok() {
        let log = open(&disk).unwrap();
        let found = read_all(&log).await;
        assert_eq!(found, acknowledged[..found.len()], "{damage}");
        close(&log);
    }
}

#[tokio::test]
async fn time_does_not_go_back_over_a_start_behind_a_sealed_segment() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let log = open(&disk).unwrap();
    let acknowledged = fill(&log, 50).await;
    // This seals what was written so far.
    log.blank(&Positions::default()).await.unwrap();
    close(&log);
    // The clock of this log begins anew.
    let log = open(&disk).unwrap();
    let next = log.append(blind(1, 1)).await.unwrap();
    assert!(next.time > acknowledged.last().unwrap().time);
    close(&log);
}

#[tokio::test]
async fn segments_that_are_missing_at_either_end_are_damage() {
    let (disk, acknowledged) = written().await;
    let names = disk.list().unwrap();
    let without = |name: &str| {
        let copy = disk.with_file(name, |_| ());
        copy.remove(name).unwrap();
        Arc::new(copy) as Arc<dyn Disk>
    };
    let first = without(&names[0]);
    let second = format!("segment={}", names[1]);
    let refused = open(&first).err().expect("positions are missing");
    assert!(refused.to_string().contains(&second), "{refused}");
    assert!(Segments::open(&first).is_err());

    let last = without(&names[names.len() - 1]);
    let sealed = format!("segment={}", names[names.len() - 2]);
    let refused = open(&last).err().expect("acknowledged events are missing");
    assert!(refused.to_string().contains(&sealed), "{refused}");
    // A reader next to a writer may have listed the segments before the last one was created.
    let read = Segments::open(&last).unwrap();
    let report = read.verify(&BTreeMap::new(), |_| {}).unwrap();
    assert!(report.head < acknowledged.last().unwrap().last_position());
}

/// A later version may write what this one does not know: that is not a torn tail.
#[tokio::test]
async fn commits_of_a_newer_version_are_refused_and_not_cut() {
    let (disk, _) = written().await;
    let name = last_segment(&disk);
    let newer = disk.with_file(&name, |bytes| {
        let frame = last_frame(bytes);
        make_newer(&mut bytes[frame]);
    });
    let before = newer.bytes(&name);
    let Err(error) = open(&(Arc::new(newer.clone()) as Arc<dyn Disk>)) else {
        panic!("a log of a newer version was opened")
    };
    assert!(error.to_string().contains("newer"), "{error}");
    assert!(!error.to_string().contains("damaged"), "{error}");
    assert_eq!(newer.bytes(&name), before);
}

/// A backup neither omits such commits nor reports them as damaged.
#[tokio::test]
async fn commits_of_a_newer_version_are_refused_segment_by_segment() {
    let (disk, _) = written().await;
    let is_newer = |error: Option<SegmentError>| {
        assert!(matches!(error, Some(SegmentError::Newer(_))), "{error:?}");
    };
    let open = disk.with_file(&last_segment(&disk), |bytes| {
        let frame = last_frame(bytes);
        make_newer(&mut bytes[frame]);
    });
    is_newer(Survey::of(&open).err());

    let first = disk.list().unwrap().remove(0);
    let sealed = disk.with_file(&first, |bytes| {
        let frame = frames(bytes).swap_remove(0);
        make_newer(&mut bytes[frame]);
    });
    let survey = Survey::of(&sealed).unwrap();
    is_newer(survey.segments[0].check().err());
}

/// Turns a frame into a valid one whose commit has unknown flags.
fn make_newer(frame: &mut [u8]) {
    // The commit's second byte contains its flags.
    frame[HEAD_BYTES + 1] |= 0x80;
    let checksum = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// The number of bytes before the commit in a frame: its length, its checksum, and its group.
const HEAD_BYTES: usize = 12;
const SEGMENT_HEADER_BYTES: usize = 72;

/// Returns where the last frame of an open segment is. It may end in zeros, like what follows it.
pub fn last_frame(bytes: &[u8]) -> Range<usize> {
    frames(bytes).pop().unwrap()
}

/// Returns where the frames of an open segment are.
fn frames(bytes: &[u8]) -> Vec<Range<usize>> {
    let next = |start: usize| {
        let length = u32_at(bytes, start)?;
        (length > 0).then(|| start..start + HEAD_BYTES + length)
    };
    std::iter::successors(next(SEGMENT_HEADER_BYTES), |frame| next(frame.end)).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(number.try_into().unwrap()) as usize)
}

/// Returns a log that ends before a group of several commits, the place of the group, its bytes,
/// and the commits up to and including it.
async fn written_up_to_a_group() -> (MemoryDisk, Range<usize>, Vec<u8>, Vec<Arc<Commit>>) {
    loop {
        let (disk, acknowledged) = written().await;
        let name = last_segment(&disk);
        let bytes = disk.bytes(&name);
        let frames = frames(&bytes);
        let group_of = |frame: &Range<usize>| u32_at(&bytes, frame.start + 8);
        let mut groups = frames.chunk_by(|a, b| group_of(a) == group_of(b));
        // The committer decides which commits form a group.
        let Some(group) = groups.rfind(|group| group.len() > 2) else {
            continue;
        };
        let place = group[0].start..group[group.len() - 1].end;
        let num_behind = frames.iter().filter(|it| it.start >= place.end).count();
        let num_until = acknowledged.len() - num_behind;
        let log = disk.with_file(&name, |bytes| bytes[place.start..].fill(0));
        let commits = acknowledged[..num_until].to_vec();
        return (log, place.clone(), bytes[place].to_vec(), commits);
    }
}

/// A group that found no space may still be after the end: an earlier build may have left it there,
/// or a process that ended before it could take the group back.
///
/// Its frames go on after what was written in its place.
#[tokio::test]
async fn what_a_refused_group_has_left_is_a_torn_tail() {
    let (disk, place, group, commits) = written_up_to_a_group().await;
    let name = last_segment(&disk);
    let num_refused = frames(&[vec![0; SEGMENT_HEADER_BYTES], group.clone()].concat()).len();
    let (before, refused) = commits.split_at(commits.len() - num_refused);
    for num_written in 1..num_refused {
        let disk = disk.with_file(&name, |_| ());
        let log = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>)).unwrap();
        assert_eq!(read_all(&log).await, before);
        let mut acknowledged = before.to_vec();
        for commit in &refused[..num_written] {
            // As long as what it replaces.
            let number = commit.first_position() - 1;
            acknowledged.push(log.append(blind(number, number)).await.unwrap());
        }
        close(&log);
        let end = last_frame(&disk.bytes(&name)).end;
        let left = disk.with_file(&name, |bytes| {
            bytes[end..place.end].copy_from_slice(&group[end - place.start..]);
        });
        let disk: Arc<dyn Disk> = Arc::new(left.clone());
        let read = Segments::open(&disk).unwrap();
        let report = read.verify(&BTreeMap::new(), |_| {}).unwrap();
        assert_eq!(report.head, acknowledged.last().unwrap().last_position());
        let survey = Survey::of(&left).unwrap();
        assert_eq!(
            (survey.damage, survey.segments.last().unwrap().end),
            (Vec::new(), end as u64)
        );
        let log = open(&disk).unwrap();
        assert_eq!(read_all(&log).await, acknowledged);
        assert!(
            left.bytes(&name)[end..].iter().all(|byte| *byte == 0),
            "it is gone"
        );
        acknowledged.push(log.append(blind(1, 1)).await.unwrap());
        close(&log);
        let log = open(&disk).unwrap();
        assert_eq!(read_all(&log).await, acknowledged);
        close(&log);
    }
}

/// A group is written once everything before it is durable. So a group that follows something else
/// shows that this is lost.
#[tokio::test]
async fn a_group_that_does_not_follow_what_is_before_it_is_damage() {
    let (disk, place, ..) = written_up_to_a_group().await;
    let name = last_segment(&disk);
    let written = |disk: MemoryDisk, count: u64| async move {
        let log = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>)).unwrap();
        for _ in 0..count {
            log.append(blind(1, 1)).await.unwrap();
        }
        close(&log);
        disk
    };
    let bytes = written(disk.with_file(&name, |_| ()), 2).await.bytes(&name);
    let second = last_frame(&bytes);
    let other = written(disk, 1).await.with_file(&name, |other| {
        other[second.clone()].copy_from_slice(&bytes[second.clone()]);
    });
    assert_eq!(last_frame(&other.bytes(&name)), second);
    assert!(place.start < second.start);
    let refused = open(&(Arc::new(other) as Arc<dyn Disk>)).err().unwrap();
    let offset = format!("segment={name} offset={}", second.start);
    assert!(refused.to_string().contains(&offset), "{refused}");
}

#[tokio::test]
async fn damage_in_the_middle_of_the_open_segment_is_named_and_nothing_is_cut() {
    let (disk, _) = written().await;
    let name = last_segment(&disk);
    let before = disk.bytes(&name);
    let damaged = disk.with_file(&name, |bytes| bytes[200] ^= 1);
    let damaged_bytes = damaged.bytes(&name);
    let shared: Arc<dyn Disk> = Arc::new(damaged.clone());
    let Err(error) = open(&shared) else {
        panic!("a damaged log was opened")
    };
    assert!(
        error.to_string().contains(&format!("segment={name}")),
        "{error}"
    );
    assert_eq!(damaged.bytes(&name), damaged_bytes, "nothing was written");
    assert_ne!(before, damaged_bytes);
}
