//! Retention: a type can keep a number of versions of each record, or those of a number of days;
//! older ones are erased when the log is compacted.
//!
//! The newest version is always kept, and a deletion remains a deletion. What is kept can be folded
//! exactly: it begins with a full state, so up to 31 versions more than asked for are kept. Like
//! every erasure it is an event that names positions, and no position changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{ErasureRequest, ErasureScope, Event, EventKind, Retention, Stream};
use skytrail_schema::id::{RecordKey, TypeName};
use skytrail_schema::positions::Positions;
use skytrail_schema::time::Timestamp;

use super::files::see_files;
use super::{Erased, Eraser};
use crate::clock::wait_since;
use crate::context::RequestContext;
use crate::log::seek::load_page;
use crate::record::attempt::{Outcome, retry_on_conflict};
use crate::record::decide::Plan;

/// How many events are read at once.
const READ_EVENTS: usize = 4096;
/// How many positions one erasure names at most.
const NAMED_AT_ONCE: usize = 100_000;
/// The same, if some of the events name files that may be removed.
const NAMED_WITH_FILES: usize = 10_000;
const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;

/// The result of compacting the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compacted {
    /// Events whose payloads are erased.
    pub num_events: u64,
    /// Files that only these events named, which are erased as well.
    pub num_files: u64,
    /// Bytes of the journal before.
    pub bytes_before: u64,
    /// Bytes of the journal after; erasures that are not finished have not reduced them yet.
    pub bytes_after: u64,
    /// Whether it is finished.
    pub finished: bool,
}

/// A version of a record, as retention sees it.
struct Version {
    position: u64,
    at: Timestamp,
    /// Whether it does not build on earlier ones.
    is_full: bool,
    /// Whether it has a payload.
    is_payload: bool,
    /// Whether it names files.
    has_files: bool,
}

type Histories = HashMap<TypeName, HashMap<RecordKey, Vec<Version>>>;

impl Eraser {
    /// Erases what exceeds the types' retention; returns when it is gone, or when that takes too
    /// long.
    ///
    /// # Errors
    /// The log cannot be read or written.
    pub async fn compact(&self, context: &RequestContext) -> Result<Compacted, ApiError> {
        let mut compacted = Compacted {
            bytes_before: self.log.state().journal_bytes,
            finished: true,
            ..Compacted::default()
        };
        let types = self.env.model.get_types().into_iter();
        let kept: HashMap<TypeName, Retention> = types
            .filter_map(|definition| Some((definition.name.clone(), definition.retention?)))
            .collect();
        let mut requested = Vec::new();
        if !kept.is_empty() {
            let now = self.env.clock.now();
            for (name, records) in self.histories(&kept).await? {
                let Some(retention) = kept.get(&name) else {
                    continue;
                };
                let old = records.values().flat_map(|it| beyond(it, *retention, now));
                let mut old: Vec<&Version> = old.collect();
                old.sort_unstable_by_key(|version| version.position);
                let has_files = !retention.keeps_files && old.iter().any(|it| it.has_files);
                let at_once = if has_files {
                    NAMED_WITH_FILES
                } else {
                    NAMED_AT_ONCE
                };
                for batch in old.chunks(at_once) {
                    let let_go = |_| self.let_go((&name, *retention), batch, context);
                    requested.push(retry_on_conflict(None, let_go).await?);
                }
            }
        }
        for one in requested {
            compacted.num_events += one.num_events;
            compacted.num_files += one.files.erased.len() as u64;
            compacted.finished &= self.await_end(one, context).await?.finished;
        }
        compacted.bytes_after = self.log.state().journal_bytes;
        Ok(compacted)
    }

    /// Reads the log for the versions of the records of some types.
    async fn histories(&self, types: &HashMap<TypeName, Retention>) -> Result<Histories, ApiError> {
        let mut histories = Histories::new();
        let (mut position, head) = (0, self.env.log.head());
        while position < head {
            let commits;
            (commits, position) = load_page(&*self.env.log, position + 1, READ_EVENTS).await?;
            for (commit, event) in commits
                .iter()
                .flat_map(|commit| commit.events.iter().map(move |event| (commit, event)))
            {
                let Stream::Record(id) = &event.stream else {
                    continue;
                };
                if types.contains_key(&id.record_type) {
                    let records = histories.entry(id.record_type.clone()).or_default();
                    let versions = records.entry(id.key.clone()).or_default();
                    versions.push(Version::of(event, commit.time));
                }
            }
        }
        Ok(histories)
    }

    async fn let_go(
        &self,
        (name, retention): (&TypeName, Retention),
        versions: &[&Version],
        context: &RequestContext,
    ) -> Result<Outcome<Erased>, ApiError> {
        let head = self.env.log.head();
        let positions: Positions = versions.iter().map(|version| version.position).collect();
        let mut sought = None;
        if !retention.keeps_files {
            self.env.applied.wait_for(head).await?;
            let versions = versions.iter().filter(|version| version.has_files);
            sought = Some(versions.map(|version| version.position).collect());
        }
        let scope = ErasureScope::Retention(Stream::Type(name.clone()));
        let why = format!("{name} keeps {retention}");
        let request = ErasureRequest::new(scope, why, positions);
        // Nothing needs the versions before a later full state, whatever happens meanwhile.
        let read = (head, Vec::new());
        self.request((Plan::default(), request), sought, read, context)
            .await
    }
}

impl Version {
    fn of(event: &Event, at: Timestamp) -> Self {
        let (kind, is_blank) = (event.body.kind(), event.body.erased().is_some());
        let is_deletion = kind == EventKind::RecordDeleted;
        let mut has_files = false;
        see_files(&event.body, &mut |_| has_files = true);
        let is_state = matches!(kind, EventKind::RecordCreated | EventKind::RecordReplaced);
        Self {
            position: event.position,
            at,
            is_full: is_deletion || (is_state && !is_blank),
            is_payload: !is_deletion && !is_blank,
            has_files,
        }
    }
}

/// Returns a record's versions that exceed its retention.
fn beyond(versions: &[Version], kept: Retention, now: Timestamp) -> impl Iterator<Item = &Version> {
    let since = kept.days.map(|days| {
        let span = i64::from(days).saturating_mul(DAY_MICROS);
        Timestamp::from_micros(now.micros().saturating_sub(span))
    });
    let by_number = kept.versions.map(|number| {
        let number = usize::try_from(number.max(1)).unwrap_or(usize::MAX);
        versions.len().saturating_sub(number)
    });
    // The version that was current when the period began is kept as well.
    let by_time = since.map(|since| {
        let later = versions.partition_point(|version| version.at <= since);
        later.saturating_sub(1)
    });
    let first = [by_number, by_time].into_iter().flatten().min();
    let first = first.unwrap_or(0);
    let kept = versions.get(..=first).unwrap_or_default();
    let begin = kept.iter().rposition(|version| version.is_full);
    let gone = versions.get(..begin.unwrap_or(0)).unwrap_or_default();
    gone.iter().filter(|version| version.is_payload)
}

/// Compacts the log at the same time every day, for ever.
pub async fn compact_daily(eraser: Arc<Eraser>, at: Timestamp) {
    loop {
        let (clock, now) = (&*eraser.env.clock, eraser.env.clock.now());
        let wait = (at.micros() - now.micros()).rem_euclid(DAY_MICROS);
        let wait = Duration::from_micros(u64::try_from(wait).unwrap_or_default());
        if !wait_since(clock, now, wait).await {
            continue;
        }
        match eraser.compact(&RequestContext::system()).await {
            Ok(done) => tracing::info!(
                events = done.num_events,
                bytes_before = done.bytes_before,
                bytes_after = done.bytes_after,
                "the log was compacted"
            ),
            Err(error) => tracing::error!(%error, "the log could not be compacted"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn versions(kinds: &[u8]) -> Vec<Version> {
        let version = |(index, kind): (usize, &u8)| Version {
            position: index as u64 + 1,
            at: Timestamp::from_micros(index as i64 * DAY_MICROS),
            is_full: index == 0 || *kind == 0,
            is_payload: *kind != 1,
            has_files: false,
        };
        kinds.iter().enumerate().map(version).collect()
    }

    proptest! {
        /// Erased versions come before a full state, and everything that was asked for is kept.
        #[test]
        fn what_is_kept_can_be_folded(
            kinds in prop::collection::vec(0_u8..8, 1..80),
            number in prop::option::of(0_u32..60),
            days in prop::option::of(0_u32..60),
        ) {
            let all = versions(&kinds);
            let now = Timestamp::from_micros(all.len() as i64 * DAY_MICROS);
            let kept = Retention { versions: number, days, keeps_files: false };
            let gone: Vec<u64> = beyond(&all, kept, now).map(|it| it.position).collect();
            if number.is_none() && days.is_none() {
                prop_assert!(gone.is_empty());
            }
            let Some(last) = gone.last().copied() else { return Ok(()) };
            let rest: Vec<&Version> = all.iter().filter(|it| it.position > last).collect();
            let begin = rest.iter().position(|it| it.is_full);
            prop_assert!(begin.is_some());
            prop_assert!(rest[..begin.unwrap()].iter().all(|it| !it.is_payload));
            if let Some(number) = number {
                let expected = (number.max(1) as usize).min(all.len());
                prop_assert!(rest.len() - begin.unwrap() >= expected);
            }
            if let Some(days) = days {
                let since = now.micros() - i64::from(days) * DAY_MICROS;
                let held = all.iter().rfind(|it| it.at.micros() <= since);
                prop_assert!(held.is_none_or(|it| it.position >= rest[begin.unwrap()].position));
            }
        }
    }
}
