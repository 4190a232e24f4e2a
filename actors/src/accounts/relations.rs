//! Relations between users: creating, ending and listing them.
//!
//! All of them are the caller's own: nobody else can change or read whom a user follows.

use std::collections::BTreeSet;

use skytrail_schema::acl::Level;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, RelationTarget, Stream};
use skytrail_schema::id::{Database, RecordId, UserId};

use super::Accounts;
use super::messages::{ChangeRelations, ListRelated, RelatedUser, RelatedUsers};
use crate::context::RequestContext;
use crate::record::attempt::{Outcome, commit, retry_on_conflict, turn_of};
use crate::record::decide::Plan;
use crate::store::RelatedPage;

impl Accounts {
    /// Creates or ends relations of the caller, all in one commit; returns one result per target,
    /// in request order.
    ///
    /// # Errors
    /// Overload, a caller without a user, or whose user was erased.
    pub async fn change_relations(
        &self,
        command: ChangeRelations,
    ) -> Result<Vec<Result<RelatedUser, ApiError>>, ApiError> {
        let me = caller(&command.context)?;
        let done = retry_on_conflict(turn_of(&self.turn, &command.context), |_| {
            attempt(self, &command, &me)
        })
        .await?;
        let changed = done.iter().flatten().cloned().collect();
        let mut users = profiles(self, &command.context, changed).await?.into_iter();
        let result = |done: Result<UserId, ApiError>| {
            let user = done.map(|_| users.next());
            user.transpose()
                .unwrap_or_else(|| Err(ApiError::unexpected("a user has no result")))
        };
        Ok(done.into_iter().map(result).collect())
    }

    /// Lists users that are related to the caller.
    ///
    /// # Errors
    /// The store failed, or a caller without a user.
    pub async fn list_related(&self, command: ListRelated) -> Result<RelatedUsers, ApiError> {
        let env = &self.env;
        let page = RelatedPage {
            relation: command.relation,
            direction: command.direction,
            user: caller(&command.context)?,
            limit: command.limit,
            offset: command.offset,
        };
        env.applied.wait_for(env.model.position()).await?;
        let (ids, count) = env.store.list_related(&page).await?;
        let users = profiles(self, &command.context, ids).await?;
        Ok(RelatedUsers { users, count })
    }
}

async fn attempt(
    accounts: &Accounts,
    command: &ChangeRelations,
    me: &UserId,
) -> Result<Outcome<Vec<Result<UserId, ApiError>>>, ApiError> {
    let env = &accounts.env;
    let read_position = env.model.position();
    env.applied.wait_for(read_position).await?;
    let ChangeRelations {
        relation, targets, ..
    } = command;
    let (mut version, mut held) = env.store.load_relations(*relation, me, targets).await?;
    let mut plan = Plan::default();
    plan.reads
        .extend(env.check_writer(&command.context.caller).await?);
    let mut results = Vec::with_capacity(targets.len());
    for target in targets {
        // The decision does not rest on the target's stream: a user who is removed meanwhile keeps
        // the relation, as one who is removed later does.
        let exists = !command.is_addition || accounts.load(target).await?.1.is_some();
        let body = match decide(command.is_addition, exists, &mut held, target) {
            Ok(body) => body,
            Err(refused) => {
                results.push(Err(refused));
                continue;
            }
        };
        if let Some(body) = body {
            version += 1;
            plan.push(Stream::Relation(*relation, me.clone()), version, body);
        }
        results.push(Ok(target.clone()));
    }
    if plan.events.is_empty() {
        return Ok(Outcome::Done(results));
    }
    let committed = commit(&env.log, plan, read_position, &command.context).await?;
    Ok(committed.map(|_| results))
}

/// Decides what happens to one target; `None` if the relation exists already.
fn decide(
    is_addition: bool,
    exists: bool,
    held: &mut BTreeSet<UserId>,
    target: &UserId,
) -> Result<Option<EventBody>, ApiError> {
    let to = RelationTarget { to: target.clone() };
    if is_addition {
        if !exists {
            return Err(ApiError::new(Code::ResourceNotFound, "user not found"));
        }
        return Ok(held
            .insert(target.clone())
            .then_some(EventBody::RelationAdded(to)));
    }
    if held.remove(target) {
        return Ok(Some(EventBody::RelationRemoved(to)));
    }
    let message = "there is no such relation to this user";
    Err(ApiError::new(Code::ResourceNotFound, message))
}

fn caller(context: &RequestContext) -> Result<UserId, ApiError> {
    let message = "Authentication is required for this action, please login.";
    let me = context.caller.user.clone();
    me.ok_or_else(|| ApiError::new(Code::NotAuthenticated, message))
}

/// Loads public user records that the caller may read, with the fields that they may read. Other
/// users appear without a profile, as do users who have none.
async fn profiles(
    accounts: &Accounts,
    context: &RequestContext,
    users: Vec<UserId>,
) -> Result<Vec<RelatedUser>, ApiError> {
    let records: Vec<RecordId> = users.iter().map(RecordId::user).collect();
    let heads = accounts.env.load_heads(&records).await?;
    let rules = accounts.env.model.get_field_rules();
    let related = |(id, record): (UserId, RecordId)| {
        let head = heads.get(&record);
        let head = head.filter(|head| {
            head.record.database == Database::Public
                && context.caller.may(Level::Read, &head.record)
        });
        let profile = head.map(|head| {
            let mut record = head.record.clone();
            rules.hide_unreadable(&context.caller, &mut record);
            record
        });
        RelatedUser { id, profile }
    };
    Ok(users.into_iter().zip(records).map(related).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Compared with a plain set: what is answered, and what the events leave.
        #[test]
        fn targets_are_decided_in_turn(
            start in prop::collection::btree_set(0_u8..6, 0..6),
            existing in prop::collection::btree_set(0_u8..6, 0..6),
            targets in prop::collection::vec(0_u8..6, 0..12),
            is_addition in any::<bool>(),
        ) {
            let id = |number: u8| UserId::from(number.to_string());
            let before: BTreeSet<UserId> = start.into_iter().map(id).collect();
            let (mut held, mut folded) = (before.clone(), before.clone());
            let mut answers = BTreeMap::new();
            for number in targets {
                let was_held = held.contains(&id(number));
                let exists = existing.contains(&number);
                let body = decide(is_addition, exists, &mut held, &id(number));
                let is_refused = if is_addition { !exists } else { !was_held };
                prop_assert_eq!(body.is_err(), is_refused);
                match body.ok().flatten() {
                    Some(EventBody::RelationAdded(to)) => prop_assert!(folded.insert(to.to)),
                    Some(EventBody::RelationRemoved(to)) => prop_assert!(folded.remove(&to.to)),
                    Some(other) => prop_assert!(false, "{other:?}"),
                    None => {}
                }
                answers.insert(number, is_refused);
            }
            prop_assert_eq!(&folded, &held);
            for (number, is_refused) in answers {
                let is_there = held.contains(&id(number));
                if is_addition && !is_refused {
                    prop_assert!(is_there);
                }
                if !is_addition {
                    prop_assert!(!is_there);
                }
            }
        }
    }
}
