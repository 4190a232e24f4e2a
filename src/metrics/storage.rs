//! Metrics of storage: the log, the record store, changes by SQL, erasures and backups.

use skytrail_actors::capture::CaptureFigures;
use skytrail_actors::erasure::EraserState;

use super::Exposition;
use crate::backup::BackupState;
use crate::parts::States;

pub(super) fn write_log(text: &mut Exposition, states: &States) {
    let log = &states.log;
    text.metric(
        "skytrail_log_position",
        "The position of the last durable event.",
    )
    .value(log.head);
    text.metric(
        "skytrail_log_groups_total",
        "Groups written, each with one flush.",
    )
    .value(log.num_groups);
    text.histogram("skytrail_log_group_commits", "Commits that shared a flush.")
        .buckets(&[], &log.group_commits);
    text.histogram(
        "skytrail_log_flush_seconds",
        "Time of a flush (fdatasync) of the journal.",
    )
    .buckets(&[], &log.flush_seconds);
    text.metric(
        "skytrail_log_conflicts_total",
        "Decisions that were overtaken and made again.",
    )
    .value(log.num_conflicts);
    text.metric(
        "skytrail_log_queued_bytes",
        "Bytes of decisions that wait for the journal.",
    )
    .value(log.queued_bytes);
    let mut family = text.metric(
        "skytrail_log_refuses_writes",
        "Whether writes are refused, by reason.",
    );
    family.labelled(&[("reason", "disk_full")], u64::from(log.is_disk_full));
    family.labelled(
        &[("reason", "store_behind")],
        u64::from(log.is_store_behind),
    );
    text.metric(
        "skytrail_log_seconds_ahead",
        "Seconds that the last commit's time is ahead of the clock.",
    )
    .value(log.seconds_ahead);
    text.metric("skytrail_log_journal_bytes", "Size of the journal.")
        .value(log.journal_bytes);
    text.metric(
        "skytrail_disk_free_bytes",
        "Free space of the file system with the data folder.",
    )
    .maybe(log.disk_free_bytes);
    let sled = log.sled.as_ref();
    let lag = sled.map(|sled| log.head.saturating_sub(sled.position));
    text.metric(
        "skytrail_log_sled_lag_events",
        "Events that the event store does not have yet.",
    )
    .maybe(lag);
}

pub(super) fn write_store(text: &mut Exposition, states: &States) {
    let projector = states.projector.as_ref();
    let lag = projector.map(|it| states.log.head.saturating_sub(it.position));
    text.metric(
        "skytrail_projector_lag_events",
        "Events that the record store does not have yet.",
    )
    .maybe(lag);
    text.metric(
        "skytrail_projector_batches_total",
        "Transactions of the record store.",
    )
    .maybe(projector.map(|it| it.num_batches));
    text.metric(
        "skytrail_projector_failures_total",
        "Transactions that failed.",
    )
    .maybe(projector.map(|it| it.num_failures));
    text.metric(
        "skytrail_projector_failing",
        "Whether the last attempt to apply events to the record store failed.",
    )
    .maybe(projector.map(|it| u64::from(it.is_failing)));
    text.metric(
        "skytrail_store_unreadable",
        "Whether the record store cannot be read.",
    )
    .value(u64::from(states.store_trouble.is_some()));
    let queries = states.queries;
    let mut family = text.metric("skytrail_store_queries", "Queries of the record store.");
    family.labelled(&[("state", "running")], queries.num_running);
    family.labelled(&[("state", "long")], queries.num_long);
    family.labelled(&[("state", "waiting")], queries.num_waiting);
    text.metric(
        "skytrail_store_queries_refused_total",
        "Queries that waited too long for other queries.",
    )
    .value(queries.num_refused);
    text.metric(
        "skytrail_projector_faults",
        "Events that could not be applied to the record store.",
    )
    .maybe(projector.map(|it| it.num_faults));
    let mut family = text.metric(
        "skytrail_record_commands_total",
        "Saves and deletes accepted.",
    );
    let sum = |of: fn(&skytrail_actors::record::actor::RecordActorState) -> u64| -> u64 {
        states.records.iter().map(of).sum()
    };
    family.labelled(&[("kind", "save")], sum(|actor| actor.num_saves));
    family.labelled(&[("kind", "delete")], sum(|actor| actor.num_deletes));
    text.metric("skytrail_record_actors", "Record types in use.")
        .value(states.records.len());
    let caches = states.caches;
    let mut family = text.metric("skytrail_cache_entries", "Entries kept in memory.");
    let entries = [
        ("records", caches.num_records),
        ("users", caches.num_users),
        ("types", caches.num_types),
        ("known_keys", caches.num_known_keys),
        ("pinned", caches.num_pinned),
    ];
    for (cache, entries) in entries {
        family.labelled(&[("cache", cache)], entries);
    }
    text.metric(
        "skytrail_cache_bytes",
        "Approximate memory of kept records and users.",
    )
    .value(caches.num_bytes);
    let indexes = states.indexes;
    let mut family = text.metric("skytrail_indexes", "Indexes that the store manages.");
    if let Some(indexes) = indexes {
        family.labelled(&[("state", "built")], indexes.num_built);
        family.labelled(&[("state", "wanted")], indexes.num_wanted);
    }
    text.metric("skytrail_index_bytes", "Size of these indexes.")
        .maybe(indexes.map(|it| it.num_bytes));
}

pub(super) fn write_captured(text: &mut Exposition, captured: Option<&CaptureFigures>) {
    text.metric(
        "skytrail_captured_active",
        "1 when reads and saves wait for changes made by SQL.",
    )
    .maybe(captured.map(|it| u8::from(it.state.is_active)));
    text.metric(
        "skytrail_captured_failing",
        "1 while changes made by SQL cannot be imported.",
    )
    .maybe(captured.map(|it| u8::from(it.state.is_failing)));
    text.metric(
        "skytrail_captured_failures_total",
        "Failed attempts to import changes made by SQL.",
    )
    .maybe(captured.map(|it| it.state.num_failures));
    text.metric(
        "skytrail_captured_transactions_total",
        "Transactions of others that were imported.",
    )
    .maybe(captured.map(|it| it.state.num_transactions));
    text.metric(
        "skytrail_captured_waiting_rows",
        "Rows changed by SQL that the log does not have yet.",
    )
    .maybe(captured.map(|it| it.num_waiting));
    text.metric(
        "skytrail_captured_waiting_seconds",
        "When the oldest of these rows was changed.",
    )
    .maybe(captured.map(|it| it.waiting_seconds));
    text.metric(
        "skytrail_captured_refused_total",
        "Rows that could not be imported and were parked.",
    )
    .maybe(captured.map(|it| it.state.num_parked));
    text.metric("skytrail_captured_parked_rows", "Rows that are parked.")
        .maybe(captured.map(|it| it.num_parked_rows));
}

pub(super) fn write_erasures(text: &mut Exposition, erasures: &EraserState) {
    text.metric(
        "skytrail_erasures_open",
        "Erasures that are not finished yet.",
    )
    .value(erasures.num_open as u64);
    text.metric(
        "skytrail_erasures_failing",
        "1 while some data that should be erased cannot be.",
    )
    .value(u64::from(erasures.is_failing));
    text.metric(
        "skytrail_erasures_finished_total",
        "Erasures that were finished.",
    )
    .value(erasures.num_finished);
}

pub(super) fn write_backups(text: &mut Exposition, backups: &BackupState) {
    text.metric("skytrail_backups_total", "Scheduled backups, by outcome.")
        .labelled(&[("outcome", "made")], backups.num_made)
        .labelled(&[("outcome", "failed")], backups.num_failed);
    let last = backups
        .last_time
        .map_or(0, |time| time.micros() / 1_000_000);
    text.metric(
        "skytrail_backup_last_timestamp_seconds",
        "When the newest backup was made; 0 for never.",
    )
    .value(u64::try_from(last).unwrap_or_default());
    text.metric(
        "skytrail_backup_copied_bytes_total",
        "Bytes that backups have copied.",
    )
    .value(backups.copied_bytes);
    text.metric(
        "skytrail_backup_damage",
        "Damaged places in the log when the newest backup was made.",
    )
    .value(backups.damage.len() as u64);
    text.metric(
        "skytrail_backup_without_ledger",
        "1 when ops.sqlite could not be copied for the newest backup.",
    )
    .value(u64::from(backups.missing_ledger.is_some()));
    text.metric(
        "skytrail_backup_without_keys",
        "1 when the keys of subjects could not be saved for the newest backup.",
    )
    .value(u64::from(backups.missing_keys.is_some()));
    text.metric(
        "skytrail_backup_missing_files",
        "Files that the log names and that were missing for the newest backup.",
    )
    .value(backups.missing_files);
    text.metric(
        "skytrail_backup_foreign",
        "Backups of other histories of the log in the same place.",
    )
    .value(backups.foreign.len() as u64);
}
