//! Which backups are a log's own.
//!
//! A restored log contains the log of the backup, and with it whatever the original's backups hold.
//! They are the original's all the same, which may still run. What is certain is the event that
//! every restore appends: its commit is in no other log, except in one that was restored from this
//! one, and that has a later such event. So:
//!
//! 1. A history begins with the log's last restore, and each manifest names this beginning. A
//!    backup is a log's own if it names the log's beginning, and is of an earlier state of the log.
//! 2. A backup of an earlier build names no beginning. It is the log's own if it was made after the
//!    beginning, and is of an earlier state of the log.
//! 3. If a damaged part of the log may hide a later restore, the beginning is unknown. Then no
//!    backup is the log's own, and the backup that is made names no beginning and removes nothing.

use skytrail_actors::log::journal::archive::{LastRestore, Survey};

use super::BackupError;
use super::catalog::Catalog;
use super::manifest::{Beginning, Manifest};

/// The message if the beginning is unknown.
pub(super) const UNKNOWN: &str = "the log is damaged where it may say that it was restored, so it \
                                  is unknown which backups are its own";

/// See the module's overview.
pub(super) struct History<'a> {
    survey: &'a Survey,
    /// `None` if it is unknown.
    pub(super) beginning: Option<Beginning>,
}

impl<'a> History<'a> {
    /// Finds where the history of a log begins. The part of the log that the newest backup of this
    /// history or an earlier one has is not read again.
    pub(super) fn of(survey: &'a Survey, catalog: &Catalog) -> Result<Self, BackupError> {
        let mut history = Self {
            survey,
            beginning: Some(Beginning::default()),
        };
        let mut from = 0;
        let mut backups: Vec<&Manifest> = catalog.readable().collect();
        backups.sort_by_key(|backup| backup.head);
        for backup in backups.into_iter().rev() {
            if backup.history.is_some() && history.contains(backup)? {
                history.beginning = backup.history;
                from = backup.head + 1;
                break;
            }
        }
        let restore = survey.last_restore(from);
        match restore.map_err(BackupError::io("the journal"))? {
            LastRestore::None => {}
            LastRestore::At(cut) => {
                history.beginning = Some(Beginning {
                    position: cut.position,
                    chain: cut.chain,
                });
            }
            LastRestore::Unknown => history.beginning = None,
        }
        Ok(history)
    }

    /// Returns whether a backup is this log's own.
    fn owns(&self, backup: &Manifest) -> Result<bool, BackupError> {
        let Some(beginning) = self.beginning else {
            return Ok(false);
        };
        Ok(match backup.history {
            Some(named) if named != beginning => false,
            Some(_) => self.is_lost(backup.head) || self.contains(backup)?,
            None => backup.head >= beginning.position && self.contains(backup)?,
        })
    }

    /// Returns whether a position is in a segment that is damaged now.
    fn is_lost(&self, position: u64) -> bool {
        self.survey.damage.iter().any(|damage| {
            let last = damage.last_position;
            damage.first_position <= position && last.is_none_or(|last| position <= last)
        })
    }

    /// Returns the log's own backups, the oldest first.
    pub(super) fn own<'b>(&self, catalog: &'b Catalog) -> Result<Vec<&'b Manifest>, BackupError> {
        let mut own = Vec::new();
        for backup in catalog.readable() {
            if self.owns(backup)? {
                own.push(backup);
            }
        }
        Ok(own)
    }

    /// Returns whether the log of a backup is the beginning of this log.
    fn contains(&self, backup: &Manifest) -> Result<bool, BackupError> {
        let chain = self.survey.chain_at(backup.head);
        let chain = chain.map_err(BackupError::io("the journal"))?;
        Ok(chain == Some(backup.chain))
    }
}
