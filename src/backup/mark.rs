//! The commit that a restored log ends with.
//!
//! It says that the log was restored: the checkpoints are those of that time, and nothing else in
//! the log would show that there was more. It also names the later erasures. What they erased is
//! blank in the restored segments, too, but the events that say who erased what, and why, come
//! after the end. A blank that no erasure names looks like damage, so an additional erasure names
//! these.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::clock::{Clock as _, SystemClock};
use skytrail_actors::log::disk::RealDisk;
use skytrail_actors::log::journal::{JOURNAL_FOLDER, JournalOptions};
use skytrail_actors::log::{Decision, EventLog as _, LogOptions, OpenedLog};
use skytrail_schema::caller::KeyKind;
use skytrail_schema::event::{
    Actor, ErasureRequest, ErasureScope, EventBody, LogRestored, NewCommit, NewEvent, Origin,
    Stream,
};
use skytrail_schema::id::AssetName;
use skytrail_schema::positions::Positions;
use uuid::Uuid;

use super::BackupError;

const WHY: &str = "erased later in the log that this one was restored from";
/// How long writing one commit may take.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Notes in a restored journal that it was restored, and names its blanks, if it may have any, and
/// the files that were erased later. Returns how many events are blank.
pub(super) fn mark(
    data_dir: &Path,
    restored: LogRestored,
    may_have_blanks: bool,
    files: Vec<AssetName>,
) -> Result<u64, BackupError> {
    let refused = |error: &dyn std::fmt::Display| BackupError::Refused(error.to_string());
    let journal = data_dir.join(JOURNAL_FOLDER);
    let disk = RealDisk::new(&journal).map_err(BackupError::io(journal.display().to_string()))?;
    let options = JournalOptions::default();
    let opened = OpenedLog::on_disk_with_keys(Arc::new(disk), options, data_dir);
    let opened = opened.map_err(|error| refused(&error))?;
    let blanks = if may_have_blanks {
        let blanks = opened.segments().unnamed_blanks();
        blanks.map_err(|error| refused(&error))?
    } else {
        Positions::default()
    };
    let num_blanks = blanks.len();
    let options = LogOptions::new(Arc::new(|| SystemClock.now()), Arc::new(|_| {}));
    let head = opened.report().head;
    let log = opened.start(options, Vec::new(), Default::default());
    let log = log.map_err(BackupError::io("the restored log"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(BackupError::io("the restored log"))?;
    let appended =
        runtime.block_on(log.append(decision(restored, erasure_of(blanks, files), head)));
    log.close(COMMIT_TIMEOUT);
    appended.map_err(|error| refused(&error))?;
    Ok(num_blanks)
}

fn decision(restored: LogRestored, erasure: ErasureRequest, head: u64) -> Decision {
    let id = Uuid::now_v7();
    let mut events = vec![first_of(
        Stream::Restore(id),
        EventBody::LogRestored(restored),
    )];
    if !erasure.positions.is_empty() || !erasure.files.is_empty() {
        let erasure = EventBody::ErasureRequested(erasure);
        events.push(first_of(Stream::Erasure(id), erasure));
    }
    Decision {
        commit: NewCommit {
            id,
            actor: Actor {
                key: KeyKind::Master,
                origin: Origin::Cli,
                ..Actor::default()
            },
            request_id: None,
            causation: None,
            sql: None,
            events,
        },
        read_position: head,
        reads: Vec::new(),
        writes: Vec::new(),
        sequences: Vec::new(),
    }
}

fn first_of(stream: Stream, body: EventBody) -> NewEvent {
    NewEvent {
        stream,
        version: 1,
        body,
        provenance: Vec::new(),
        subject: None,
    }
}

fn erasure_of(positions: Positions, files: Vec<AssetName>) -> ErasureRequest {
    ErasureRequest {
        files,
        ..ErasureRequest::new(ErasureScope::Events, WHY.to_owned(), positions)
    }
}
