//! The parts that look after the server's data: erasures, compaction, backups, signatures, refusals
//! and the audit trail.

use std::sync::Arc;

use skytrail_actors::erasure::{Eraser, Holder};
use skytrail_actors::spawn;

use super::domain::Domain;
use super::{StartContext, background};
use crate::asset::Remover;
use crate::audit::AuditTrail;
use crate::auth::refusals::Refusals;
use crate::backup::BackupSchedule;
use crate::record_store::leftovers::Leftovers;

/// The parts that look after the server's data.
pub(super) struct Upkeep {
    pub(super) eraser: Arc<Eraser>,
    pub(super) backups: Arc<BackupSchedule>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) audit: Arc<AuditTrail>,
}

impl Upkeep {
    /// Starts all of them except backups and signatures, which begin with [`Self::run`].
    pub(super) fn start(on: &StartContext<'_>, domain: &Domain, audit: AuditTrail) -> Self {
        let (config, core) = (on.config, on.core);
        let clock = || Arc::clone(&core.clock);
        let (ops_store, checkpoints) = (Arc::clone(&core.ops_store), Arc::clone(&core.checkpoints));
        let backups = BackupSchedule::new(config, Arc::clone(&ops_store), checkpoints, clock());
        let refusals = Refusals::new(clock(), ops_store, config.http.refusals_days);
        let refusals = Arc::new(refusals);
        let writing = Arc::clone(&refusals).keep_writing(core.ending.clone());
        spawn::spawn_named("refusals", writing);
        Self {
            eraser: start_eraser(on, domain),
            backups: Arc::new(backups),
            refusals,
            audit: Arc::new(audit),
        }
    }

    /// Begins to take backups and to sign the log, once clients are served.
    pub(super) fn run(&self, on: &StartContext<'_>) {
        let ending = &on.core.ending;
        let backups = Arc::clone(&self.backups).run(ending.clone());
        spawn::spawn_named("backups", backups);
        let signing = Arc::clone(&on.core.checkpoints).run(ending.clone());
        spawn::spawn_named("checkpoints", signing);
    }
}

/// Starts the eraser and the daily compaction.
fn start_eraser(on: &StartContext<'_>, domain: &Domain) -> Arc<Eraser> {
    let (config, core) = (on.config, on.core);
    let holders: Vec<Arc<dyn Holder>> = vec![
        Arc::clone(&core.log) as _,
        Arc::clone(&core.store) as _,
        Arc::clone(&core.ops_store) as _,
        Arc::new(Leftovers::new(&config.data_dir, config.database.is_some())),
    ];
    let sources = (Arc::clone(&domain.records), Arc::clone(&core.store) as _);
    let log = (Arc::clone(&core.log), Arc::clone(&core.erasures));
    let eraser = Eraser::new(domain.env.clone(), sources, log, holders);
    let eraser = eraser.behind(core.behind_since);
    let eraser = eraser.giving_up(Arc::clone(&core.reserve));
    let remover = Arc::new(Remover(Arc::clone(&domain.files.store)));
    let eraser = eraser.removing(remover, config.assets.upload_timeout);
    let eraser = Arc::new(eraser.answering_until(core.stopping.clone()));
    let erased = background::erase(Arc::clone(&eraser), core.ending.clone());
    spawn::spawn_named("eraser", erased);
    if let Some(at) = config.storage.compact_at {
        let daily = background::compact(Arc::clone(&eraser), at, core.ending.clone());
        spawn::spawn_named("compaction", daily);
    }
    eraser
}
