//! Finds the requested backup.

use super::BackupError;
use super::catalog::Catalog;
use super::history::History;
use super::local::Local;
use super::manifest::Manifest;
use super::object::SegmentName;
use super::repository::Repository;

/// Finds the backup with a name, or the newest: of a data folder's own log if there is one, or of
/// all.
///
/// Damaged manifests among the others are passed to `skip`: one old manifest must not prevent a
/// restore.
///
/// # Errors
/// There is none with that name, none at all, or none that is readable; or the backups belong to
/// several histories, so that one has to be named.
pub fn choose(
    repository: &Repository,
    backup: Option<&str>,
    local: Option<&Local>,
    skip: &mut dyn FnMut(&str, &BackupError),
) -> Result<Manifest, BackupError> {
    if let Some(name) = backup {
        return repository.manifest(name);
    }
    let catalog = repository.catalog()?;
    if catalog.readable().next().is_none() {
        let nothing = format!("there are no backups at {}", repository.place());
        let mut damaged = catalog.backups.into_iter().filter_map(|(_, it)| it.err());
        return Err(damaged.next().unwrap_or(BackupError::Refused(nothing)));
    }
    let is_damaged = catalog.damaged().next().is_some();
    catalog
        .damaged()
        .for_each(|(name, error)| skip(name, error));
    if let Some(newest) = local.and_then(|local| newest_own(local, &catalog).transpose()) {
        return newest;
    }
    let mut ends = ends(&catalog);
    // A damaged backup no longer says which one it follows, but the log does.
    if is_damaged && ends.len() > 1 {
        let existing = repository.segments()?;
        let all = ends.clone();
        ends.retain(|end| !all.iter().any(|later| is_within(end, later, &existing)));
    }
    match ends.as_slice() {
        [newest] => Ok((*newest).clone()),
        several => {
            let describe = |it: &&Manifest| {
                let time = it.head_time.map(|time| format!(" of {time}"));
                let time = time.unwrap_or_default();
                format!(
                    "{} (made {}, up to event {}{time})",
                    it.name,
                    it.clock(),
                    it.head
                )
            };
            let ends: Vec<String> = several.iter().map(describe).collect();
            Err(BackupError::Refused(format!(
                "{} has backups of several histories of the log: choose one with --backup. The \
                 newest of each: {}. Those that are not needed any more can be dropped with \
                 `skytrail backup --forget`",
                repository.place(),
                ends.join(", ")
            )))
        }
    }
}

/// Finds the newest backup of a data folder's log; `None` if it has none, or cannot be read.
fn newest_own(local: &Local, catalog: &Catalog) -> Result<Option<Manifest>, BackupError> {
    let Ok(survey) = local.survey() else {
        return Ok(None);
    };
    let own = History::of(&survey, catalog)?.own(catalog)?;
    let is_of_store = |backup: &&Manifest| {
        let mut segments = survey.segments.iter();
        segments.any(|segment| segment.store_id == backup.store_id)
    };
    let newest = own.into_iter().rfind(is_of_store);
    Ok(newest.cloned())
}

/// Finds the last backup of each history: those that no other backup continues.
fn ends(catalog: &Catalog) -> Vec<&Manifest> {
    let backups = catalog.readable();
    backups.filter(|it| catalog.line(it).len() == 1).collect()
}

/// Returns whether the log of a backup is the beginning of a later one's.
///
/// Its last segment is one of the later one's segments, or has grown into one, so that nothing else
/// in the repository could restore it. If this cannot be determined, returns `false`.
fn is_within(earlier: &Manifest, later: &Manifest, existing: &[SegmentName]) -> bool {
    let is_other = earlier.history.is_some() && earlier.history != later.history;
    if earlier.name >= later.name || is_other {
        return false;
    }
    let Some(last) = earlier.segments.last() else {
        return true;
    };
    let is_laters = |name: &&SegmentName| {
        let mut segments = later.segments.iter();
        segments.any(|it| it.first == name.first && name.ends_with(it.last, &it.chain))
    };
    let mut holders = existing
        .iter()
        .filter(|name| name.may_hold(last))
        .peekable();
    let mut segments = later.segments.iter();
    segments.any(|it| (it.first, it.last, it.chain) == (last.first, last.last, last.chain))
        || (holders.peek().is_some() && holders.all(|name| is_laters(&name)))
}
