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
pub(super) struct Question {
    pub(super) view: ViewId,
    /// What is asked, and how its user sees.
    pub(super) query: Arc<LiveQuery>,
    pub(super) lens: Arc<Lens>,
    /// The connection that it is charged to: one of those that listen.
    pub(super) payer: Option<ListenerId>,
}

/// What a query says of a record.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// The query does not find it.
    Unfound,
    /// The query finds it. It was written at that place of the renderer, with that hash.
    Found(usize, u64),
    /// It was not looked at.
    Refused(ApiError),
}

/// What views say of one change, each by the lens that it had.
pub(super) struct Judge<'a> {
    pub(super) renderer: Renderer<'a>,
    verdicts: HashMap<ViewId, (Arc<Lens>, Verdict)>,
    /// By connection.
    budget: Budget<Option<ListenerId>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(env: &'a RecordEnv) -> Self {
        Self {
            renderer: Renderer::new(env),
            verdicts: HashMap::new(),
            budget: Budget::default(),
        }
    }

    /// Returns the verdict for a view, if the view still has that lens.
    pub(super) fn verdict(&self, view: ViewId, lens: &Arc<Lens>) -> Option<&Verdict> {
        let (by, verdict) = self.verdicts.get(&view)?;
        Arc::ptr_eq(by, lens).then_some(verdict)
    }

    /// Answers what views need to know.
    pub(super) async fn answer(
        &mut self,
        questions: Vec<Question>,
        change: &Change,
        yield_budget: &mut YieldBudget,
    ) {
        let Some(head) = &change.after else { return };
        for question in questions {
            let (verdict, cost) = self.judge(&question, head);
            let answer = (question.lens, verdict);
            self.verdicts.insert(question.view, answer);
            yield_budget.after(cost).await;
        }
    }

    /// Returns the verdict, and what it cost.
    fn judge(&mut self, question: &Question, head: &Arc<Head>) -> (Verdict, u64) {
        let (query, lens) = (&question.query, &question.lens);
        let cost = lens.cost(query, &head.record, MAX_COST);
        if let Err(over) = self.budget.take(question.payer, cost) {
            return (Verdict::Refused(too_costly(over)), 1);
        }
        if !lens.finds(query, &head.record) {
            return (Verdict::Unfound, cost);
        }
        let (place, hash) = self.renderer.render(query, lens, (head, None));
        let written = self.renderer.num_bytes(place);
        (Verdict::Found(place, hash), cost.saturating_add(written))
    }
}

/// What a view says of changes, by their positions.
pub(super) struct Judges<'a> {
    env: &'a RecordEnv,
    judges: HashMap<u64, Judge<'a>>,
}

impl<'a> Judges<'a> {
    pub(super) fn new(env: &'a RecordEnv) -> Self {
        let judges = HashMap::new();
        Self { env, judges }
    }

    /// Returns the judge of a change.
    pub(super) fn of(&mut self, position: u64) -> &mut Judge<'a> {
        let env = self.env;
        self.judges
            .entry(position)
            .or_insert_with(|| Judge::new(env))
    }

    /// Answers what a view needs to know.
    pub(super) async fn answer(
        &mut self,
        open: Vec<(Change, Question)>,
        yield_budget: &mut YieldBudget,
    ) {
        for (change, question) in open {
            let judge = self.of(change.position);
            judge.answer(vec![question], &change, yield_budget).await;
        }
    }
}

fn too_costly(over: TooCostly) -> ApiError {
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
