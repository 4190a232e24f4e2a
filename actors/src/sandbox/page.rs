//! A page of the log, replayed with a plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, EventBody, EventKind, Origin, Stream};
use skytrail_schema::id::TypeName;
use tokio::time::Instant;

use super::gate::Stage;
use super::{Finding, ReplayOutcome, Sandbox, Tally};
use crate::log::seek::load_page;
use crate::plugin::PluginGate;

/// How many events are looked at for a page.
const MAX_LOOKED_AT: u64 = 5000;
/// How many events are read at once.
const WINDOW: usize = 256;
/// After this time, a page begins no further write.
const PAGE_TIME_LIMIT: Duration = Duration::from_secs(10);

/// What has to be replayed.
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    /// The plugin; without a name, the only one that is connected.
    pub plugin: Option<String>,
    /// The generation that must be serving, if it matters.
    pub generation: Option<u64>,
    /// The positions.
    pub range: RangeInclusive<u64>,
    /// The types whose records count; if empty, all.
    pub types: BTreeSet<TypeName>,
    /// The maximum number of writes.
    pub limit: u64,
    /// Whether after-hooks are asked, too.
    pub has_after_hooks: bool,
    /// The fields whose differences are ignored, each as `FIELD` or `TYPE.FIELD`.
    pub ignored: BTreeSet<String>,
}

/// The result of a replay.
#[derive(Clone, Debug)]
pub struct Page {
    /// The plugin.
    pub plugin: Arc<str>,
    /// The writes that would not end as they did, in the order of the log.
    pub findings: Vec<Finding>,
    /// How many writes ended in which way.
    pub tally: Tally,
    /// In how many writes ignored fields were different, by `TYPE.FIELD`.
    pub ignored: BTreeMap<String, u64>,
    /// Where the next page begins; `None` at the end of the range.
    pub next: Option<u64>,
    /// The last position of the range, within the log.
    pub until: u64,
}

/// What an event means to a replay.
enum Part {
    /// It is not part of it.
    Nothing,
    /// A write that no hook saw.
    Unhooked,
    /// A write whose content was erased.
    Erased,
    /// A write that hooks saw.
    Write,
}

impl Sandbox {
    /// Replays a page of writes, one after the other.
    ///
    /// # Errors
    /// 118 if the plugin is not connected or is lost; the log cannot be read.
    pub async fn replay(&self, request: &ReplayRequest) -> Result<Page, ApiError> {
        let plugin = self
            .find(request.plugin.as_deref(), request.generation)
            .await?;
        let stage: Arc<dyn PluginGate> = Arc::new(Stage::of(&self.gate, &plugin));
        let until = (*request.range.end()).min(self.env.log.head());
        self.env.applied.wait_for(until).await?;
        let mut page = Page {
            plugin,
            findings: Vec::new(),
            tally: Tally::default(),
            ignored: BTreeMap::new(),
            next: None,
            until,
        };
        let (mut at, end) = (
            (*request.range.start()).max(1),
            Instant::now() + PAGE_TIME_LIMIT,
        );
        let last_looked_at = at.saturating_add(MAX_LOOKED_AT - 1).min(until);
        let mut num_left = request.limit;
        while at <= last_looked_at {
            let (commits, _) = load_page(&*self.env.log, at, WINDOW).await?;
            for (commit, event) in events_of(&commits, at, last_looked_at) {
                if num_left == 0 || Instant::now() >= end {
                    page.next = Some(event.position);
                    return Ok(page);
                }
                if self
                    .look_at(&stage, commit, event, (request, &mut page))
                    .await?
                {
                    num_left -= 1;
                }
                at = event.position + 1;
            }
        }
        page.next = Some(at).filter(|at| *at <= until);
        Ok(page)
    }

    /// Looks at an event; returns whether it was a write that hooks were asked about.
    async fn look_at(
        &self,
        stage: &Arc<dyn PluginGate>,
        commit: &Commit,
        event: &Event,
        (request, page): (&ReplayRequest, &mut Page),
    ) -> Result<bool, ApiError> {
        match part_of(commit, event, &request.types) {
            Part::Nothing => return Ok(false),
            Part::Unhooked => page.tally.unhooked += 1,
            Part::Erased => page.tally.erased += 1,
            Part::Write => {
                let done = self.rehearse(stage, (&page.plugin, request), commit, event);
                match done.await? {
                    Some(finding) => page.take(finding),
                    None => {
                        page.tally.erased += 1;
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Page {
    fn take(&mut self, finding: Finding) {
        self.tally.count(finding.outcome);
        for field in &finding.ignored {
            let name = format!("{}.{field}", finding.record.record_type);
            *self.ignored.entry(name).or_default() += 1;
        }
        if finding.outcome != ReplayOutcome::Same {
            self.findings.push(finding);
        }
    }
}

fn events_of(
    commits: &[Arc<Commit>],
    from: u64,
    until: u64,
) -> impl Iterator<Item = (&Commit, &Event)> {
    let all = commits.iter().flat_map(|commit| {
        let events = commit.events.iter();
        events.map(move |event| (&**commit, event))
    });
    all.filter(move |(_, event)| (from..=until).contains(&event.position))
}

/// Returns what an event means to a replay. Imports bypass the hooks. So does what accounts do to
/// user records, except for the creation at a sign-up.
fn part_of(commit: &Commit, event: &Event, types: &BTreeSet<TypeName>) -> Part {
    let Stream::Record(id) = &event.stream else {
        return Part::Nothing;
    };
    if !types.is_empty() && !types.contains(&id.record_type) {
        return Part::Nothing;
    }
    if matches!(event.body, EventBody::Erased(_)) {
        return Part::Erased;
    }
    let is_creation = event.body.kind() == EventKind::RecordCreated;
    let is_accounts = !is_creation && is_about_accounts(commit);
    match event.body {
        EventBody::RecordCreated(_)
        | EventBody::RecordChanged(_)
        | EventBody::RecordReplaced(_)
        | EventBody::RecordDeleted(_) => {
            if commit.actor.origin == Origin::Import || is_accounts {
                Part::Unhooked
            } else {
                Part::Write
            }
        }
        _ => Part::Nothing,
    }
}

/// Whether a commit was made by accounts, such as a sign-up.
pub(super) fn is_about_accounts(commit: &Commit) -> bool {
    let mut events = commit.events.iter();
    events.any(|event| matches!(event.stream, Stream::User(_)))
}
