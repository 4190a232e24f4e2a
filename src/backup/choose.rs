//! Finds the requested backup.

use super::BackupError;
use super::manifest::Manifest;
use super::object::SegmentName;
use super::repository::Repository;

/// Finds the backup with a name, or the newest. Damaged manifests among the others are passed to
/// `skip`: one old manifest must not prevent a restore.
///
/// # Errors
/// There is none with that name, none at all, or none that is readable; or the backups belong to
/// several histories, so that one has to be named.
pub fn choose(
    repository: &Repository,
    backup: Option<&str>,
    skip: &mut dyn FnMut(&BackupError),
) -> Result<Manifest, BackupError> {
    if let Some(name) = backup {
        return repository.manifest(name);
    }
    let (mut manifests, mut damaged) = (Vec::new(), Vec::new());
    for name in repository.names()? {
        match repository.manifest(&name) {
            Ok(manifest) => manifests.push(manifest),
            Err(error @ BackupError::Damaged { .. }) => damaged.push((name, error)),
            Err(error) => return Err(error),
        }
    }
    if manifests.is_empty() {
        let nothing = format!("there are no backups at {}", repository.place());
        let first = damaged.into_iter().next().map(|(_, error)| error);
        return Err(first.unwrap_or(BackupError::Refused(nothing)));
    }
    damaged.iter().for_each(|(_, error)| skip(error));
    let mut ends = ends(&manifests);
    // A damaged backup no longer says which one it follows, but the log does.
    if !damaged.is_empty() && ends.len() > 1 {
        let existing = repository.segments()?;
        let all = ends.clone();
        ends.retain(|end| !all.iter().any(|later| is_within(end, later, &existing)));
    }
    match ends.as_slice() {
        [newest] => Ok((*newest).clone()),
        several => {
            let describe = |it: &&Manifest| format!("{} (up to {})", it.name, it.head);
            let ends: Vec<String> = several.iter().map(describe).collect();
            Err(BackupError::Refused(format!(
                "{} has backups of several histories of the log, which end with {}: choose one \
                 with --backup",
                repository.place(),
                ends.join(", ")
            )))
        }
    }
}

/// Finds the last backup of each history: those that no other backup follows.
fn ends(manifests: &[Manifest]) -> Vec<&Manifest> {
    let is_followed = |name: &str| {
        let mut follows = manifests.iter().filter_map(|it| it.follows.as_deref());
        follows.any(|before| before == name)
    };
    let ends = manifests.iter().filter(|it| !is_followed(&it.name));
    ends.collect()
}

/// Returns whether the log of a backup is the beginning of a later one's.
///
/// Its last segment is one of the later one's segments, or has grown into one, so that nothing else
/// in the repository could restore it. If this cannot be determined, returns `false`.
fn is_within(earlier: &Manifest, later: &Manifest, existing: &[SegmentName]) -> bool {
    if earlier.name >= later.name {
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
    later.segments.contains(last)
        || (holders.peek().is_some() && holders.all(|name| is_laters(&name)))
}
