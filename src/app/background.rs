//! Small tasks that run next to the server until it stops.

use std::sync::Arc;
use std::time::Duration;

use skytrail_actors::capture::Captures;
use skytrail_actors::device::Devices;
use skytrail_actors::erasure::{Eraser, compact_daily};
use skytrail_actors::log::Reserve;
use skytrail_actors::record::env::RecordEnv;
use skytrail_actors::store::StoreError;
use skytrail_schema::id::{RecordId, RecordKey};
use skytrail_schema::time::Timestamp;
use tokio_util::sync::CancellationToken;

/// How often the disk's free space is checked.
const RESERVE_PERIOD: Duration = Duration::from_millis(250);

/// Tells the write model which records exist, so that most creations need not ask the store.
pub(super) async fn learn_keys(env: RecordEnv) {
    match try_to_learn_keys(&env).await {
        Ok(()) => {
            env.model.known_keys().complete();
            tracing::info!("the keys of all records are known");
        }
        Err(error) => {
            tracing::warn!(%error, "keys could not be loaded; creates ask the store");
        }
    }
}

async fn try_to_learn_keys(env: &RecordEnv) -> Result<(), StoreError> {
    const KEYS_AT_ONCE: u32 = 10_000;
    for definition in env.model.get_types() {
        let learn = |keys: Vec<RecordKey>| {
            let id = |key| RecordId {
                record_type: definition.name.clone(),
                key,
            };
            let ids: Vec<_> = keys.into_iter().map(id).collect();
            env.model.known_keys().learn(ids.iter());
        };
        let mut after = None;
        loop {
            let keys = env
                .store
                .list_keys(&definition, after.as_ref(), KEYS_AT_ONCE)
                .await?;
            let Some(last) = keys.last() else { break };
            after = Some(last.clone());
            learn(keys);
        }
        // Asked for after the rows: a record that SQL has deleted exists until the deletion is in
        // the log.
        learn(env.store.list_captured(&definition).await?);
    }
    Ok(())
}

/// Works on erasures until they are finished.
pub(super) async fn erase(eraser: Arc<Eraser>, ending: CancellationToken) {
    ending.run_until_cancelled(eraser.work()).await;
}

/// Appends to the log what others change by SQL.
pub(super) async fn take_in(captures: Captures, ending: CancellationToken) {
    ending.run_until_cancelled(captures.run()).await;
}

/// Compacts the log every day, at a number of microseconds after midnight.
pub(super) async fn compact(eraser: Arc<Eraser>, at: i64, ending: CancellationToken) {
    let daily = compact_daily(eraser, Timestamp::from_micros(at));
    ending.run_until_cancelled(daily).await;
}

/// Watches the disk's free space.
pub(super) async fn tend(reserve: Arc<Reserve>, ending: CancellationToken) {
    let pause = || ending.run_until_cancelled(tokio::time::sleep(RESERVE_PERIOD));
    while pause().await.is_some() {
        if let Err(error) = reserve.tend() {
            tracing::warn!(%error, "the disk's free space is unknown");
        }
    }
}

/// Forgets devices that cannot be reached, once at the start.
pub(super) async fn forget_devices(devices: Arc<Devices>) {
    match devices.forget_unreachable().await {
        Ok(num_devices) => tracing::info!(num_devices, "devices without an address are deleted"),
        Err(error) => tracing::warn!(%error, "devices without an address could not be deleted"),
    }
}
