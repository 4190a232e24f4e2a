//! What queries say of a change: worked out without the lock of the listeners, and bounded.

use std::collections::HashMap;
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::record::Head;

use super::frame_sender::ListenerId;
use super::lens::Lens;
use super::listeners::ViewId;
use super::load::Renderer;
use super::query::LiveQuery;
use super::view::Change;
use crate::budget::{Budget, MAX_COST, TooCostly};
use crate::record::env::RecordEnv;
use crate::yield_budget::YieldBudget;

/// What a view needs to know about a change.
#[derive(Clone, Debug)]
pub(super) struct MatchRequest {
    pub(super) view: ViewId,
    /// What is asked, and how its user sees.
    pub(super) query: Arc<LiveQuery>,
    pub(super) lens: Arc<Lens>,
    /// The connection that it is charged to: one of those that listen.
    pub(super) payer: Option<ListenerId>,
}

/// What a query says of a record.
#[derive(Clone, Debug)]
pub(super) enum MatchResult {
    /// The query does not find it.
    NoMatch,
    /// The query finds it. It was written at that place of the renderer, with that hash.
    Match(usize, u64),
    /// It was not looked at.
    Refused(ApiError),
}

/// What views say of one change, each by the lens that it had.
pub(super) struct Matcher<'a> {
    pub(super) renderer: Renderer<'a>,
    results: HashMap<ViewId, (Arc<Lens>, MatchResult)>,
    /// By connection.
    budget: Budget<Option<ListenerId>>,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(env: &'a RecordEnv) -> Self {
        Self {
            renderer: Renderer::new(env),
            results: HashMap::new(),
            budget: Budget::default(),
        }
    }

    /// Returns the result for a view, if the view still has that lens.
    pub(super) fn result(&self, view: ViewId, lens: &Arc<Lens>) -> Option<&MatchResult> {
        let (by, result) = self.results.get(&view)?;
        Arc::ptr_eq(by, lens).then_some(result)
    }

    /// Evaluates what views need to know.
    pub(super) async fn evaluate(
        &mut self,
        match_requests: Vec<MatchRequest>,
        change: &Change,
        yield_budget: &mut YieldBudget,
    ) {
        let Some(head) = &change.after else { return };
        for match_request in match_requests {
            let (result, cost) = self.evaluate_one(&match_request, head);
            let answer = (match_request.lens, result);
            self.results.insert(match_request.view, answer);
            yield_budget.after(cost).await;
        }
    }

    /// Returns the result, and what it cost.
    fn evaluate_one(
        &mut self,
        match_request: &MatchRequest,
        head: &Arc<Head>,
    ) -> (MatchResult, u64) {
        let (query, lens) = (&match_request.query, &match_request.lens);
        let cost = lens.cost(query, &head.record, MAX_COST);
        if let Err(over) = self.budget.take(match_request.payer, cost) {
            return (MatchResult::Refused(too_costly(over)), 1);
        }
        if !lens.finds(query, &head.record) {
            return (MatchResult::NoMatch, cost);
        }
        let (place, hash) = self.renderer.render(query, lens, (head, None));
        let written = self.renderer.num_bytes(place);
        (
            MatchResult::Match(place, hash),
            cost.saturating_add(written),
        )
    }
}

/// What a view says of changes, by their positions.
pub(super) struct Matchers<'a> {
    env: &'a RecordEnv,
    matchers: HashMap<u64, Matcher<'a>>,
}

impl<'a> Matchers<'a> {
    pub(super) fn new(env: &'a RecordEnv) -> Self {
        let matchers = HashMap::new();
        Self { env, matchers }
    }

    /// Returns the matcher of a change.
    pub(super) fn of(&mut self, position: u64) -> &mut Matcher<'a> {
        let env = self.env;
        self.matchers
            .entry(position)
            .or_insert_with(|| Matcher::new(env))
    }

    /// Evaluates what a view needs to know.
    pub(super) async fn evaluate(
        &mut self,
        open: Vec<(Change, MatchRequest)>,
        yield_budget: &mut YieldBudget,
    ) {
        for (change, match_request) in open {
            let matcher = self.of(change.position);
            matcher
                .evaluate(vec![match_request], &change, yield_budget)
                .await;
        }
    }
}

pub(super) fn too_costly(over: TooCostly) -> ApiError {
    let whose = match over {
        TooCostly::Alone => "the query",
        TooCostly::Together => "the live queries of the connection",
    };
    let most = over.most_mib();
    let text = format!(
        "{whose} would have to read more than {most} MiB to evaluate one change; ask for less"
    );
    ApiError::invalid_argument(text, &["predicate"])
}
