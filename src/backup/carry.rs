//! Erasures that are later than where a restored log ends.
//!
//! What was erased since a backup was made is blank in its segments, too; but the events that say who
//! erased it, and why, are behind the end. A blank that no erasure names looks like damage, so the
//! restored log gets an erasure of its own that names them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::clock::{Clock as _, SystemClock};
use skytrail_actors::log::disk::RealDisk;
use skytrail_actors::log::journal::{JOURNAL_FOLDER, JournalOptions};
use skytrail_actors::log::{Decision, EventLog as _, LogOptions, OpenedLog};
use skytrail_schema::caller::KeyKind;
use skytrail_schema::event::{
    Actor, ErasureRequest, ErasureScope, EventBody, NewCommit, NewEvent, Origin, Stream,
};
use skytrail_schema::positions::Positions;
use uuid::Uuid;

use super::BackupError;

const WHY: &str = "erased later in the log that this one was restored from";
/// How long writing one commit may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names what is blank in a restored journal; returns how many events that is.
pub(super) fn carry_over(data_dir: &Path) -> Result<u64, BackupError> {
    let refused = |error: &dyn std::fmt::Display| BackupError::Refused(error.to_string());
    let journal = data_dir.join(JOURNAL_FOLDER);
    let disk = RealDisk::new(&journal).map_err(BackupError::io(journal.display().to_string()))?;
    let options = JournalOptions::default();
    let opened = OpenedLog::on_disk_with_keys(Arc::new(disk), options, data_dir);
    let opened = opened.map_err(|error| refused(&error))?;
    let blanks = opened.segments().unnamed_blanks();
    let blanks = blanks.map_err(|error| refused(&error))?;
    if blanks.is_empty() {
        return Ok(0);
    }
    let num_blanks = blanks.len();
    let options = LogOptions::new(Arc::new(|| SystemClock.now()), Arc::new(|_| {}));
    let head = opened.report().head;
    let log = opened.start(options, Vec::new(), Default::default());
    let log = log.map_err(BackupError::io("the restored log"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(BackupError::io("the restored log"))?;
    let appended = runtime.block_on(log.append(decision(blanks, head)));
    log.close(PATIENCE);
    appended.map_err(|error| refused(&error))?;
    Ok(num_blanks)
}

fn decision(positions: Positions, head: u64) -> Decision {
    let id = Uuid::now_v7();
    let request = ErasureRequest {
        scope: ErasureScope::Events,
        why: WHY.to_owned(),
        positions,
        keys: Vec::new(),
        files: Vec::new(),
        counters: BTreeMap::new(),
    };
    let event = NewEvent {
        stream: Stream::Erasure(id),
        version: 1,
        body: EventBody::ErasureRequested(request),
        provenance: Vec::new(),
        subject: None,
    };
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
            events: vec![event],
        },
        read_position: head,
        reads: Vec::new(),
        writes: Vec::new(),
        sequences: Vec::new(),
    }
}
