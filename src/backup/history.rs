//! Which backups are a log's own.
//!
//! A restored log contains the log of the backup, and with it whatever the original's backups hold.
//! They are the original's all the same, which may still run. What is certain is the event that
//! every restore appends: its commit is in no other log, except in one that was restored from this
//! one, and that has a later such event. So a history begins with the log's last restore, and each
//! manifest names this beginning. The manifests of earlier builds do not; such a backup is this
//! log's if it has the commit.

use skytrail_actors::log::journal::archive::Survey;

use super::BackupError;
use super::catalog::Catalog;
use super::manifest::{Beginning, Manifest};

/// See the module's overview.
pub(super) struct History<'a> {
    survey: &'a Survey,
    pub(super) beginning: Beginning,
}

impl<'a> History<'a> {
    /// Finds where the history of a log begins. What the backups know of it is not read again.
    pub(super) fn of(survey: &'a Survey, catalog: &Catalog) -> Result<Self, BackupError> {
        let mut history = Self {
            survey,
            beginning: Beginning::default(),
        };
        let mut from = 0;
        for backup in catalog.readable().rev() {
            if let Some(beginning) = backup.history
                && history.contains(backup)?
            {
                history.beginning = beginning;
                from = backup.head + 1;
                break;
            }
        }
        for segment in survey.segments.iter().rev() {
            let restore = segment.last_restore(from);
            let restore = restore.map_err(BackupError::io(segment.name.clone()))?;
            if let Some(cut) = restore {
                history.beginning = Beginning {
                    position: cut.position,
                    chain: cut.chain,
                };
                break;
            }
        }
        Ok(history)
    }

    /// Returns whether a backup is one of this history, and of an earlier state of this log: a data
    /// folder that was copied or put back by other means has another one.
    pub(super) fn owns(&self, backup: &Manifest) -> Result<bool, BackupError> {
        Ok(match backup.history {
            Some(beginning) if beginning != self.beginning => false,
            Some(_) => self.is_lost(backup.head) || self.contains(backup)?,
            None => backup.head >= self.beginning.position && self.contains(backup)?,
        })
    }

    /// Returns whether a position is in a segment that is damaged now.
    fn is_lost(&self, position: u64) -> bool {
        self.survey.damage.iter().any(|damage| {
            let last = damage.last_position;
            damage.first_position <= position && last.is_none_or(|last| position <= last)
        })
    }

    /// Returns the backups of this history, the oldest first.
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
