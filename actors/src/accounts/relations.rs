//! Making and ending relations between users.

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, RelationTarget, Stream};
use skytrail_schema::id::UserId;
use skytrail_schema::predicate::Direction;

use super::actor::Accounts;
use super::messages::ChangeRelations;
use crate::record::attempt::{Outcome, commit, until_settled};
use crate::record::decide::Plan;

/// Makes or ends relations of the caller; one result per target.
///
/// # Errors
/// Overload, or a caller without a user.
pub(super) async fn change(
    accounts: &Accounts,
    command: ChangeRelations,
) -> Result<Vec<Result<UserId, ApiError>>, ApiError> {
    let message = "Authentication is required for this action, please login.";
    let me = command.context.caller.user.clone();
    let me = me.ok_or_else(|| ApiError::new(Code::NotAuthenticated, message))?;
    let mut results = Vec::with_capacity(command.targets.len());
    for target in &command.targets {
        if accounts.load(target).await?.1.is_none() {
            results.push(Err(ApiError::new(Code::ResourceNotFound, "user not found")));
            continue;
        }
        let pairs = match command.direction {
            Direction::Outward => vec![(&me, target)],
            Direction::Inward => vec![(target, &me)],
            Direction::Mutual => vec![(&me, target), (target, &me)],
        };
        for (from, to) in pairs {
            change_one(accounts, &command, from, to).await?;
        }
        results.push(Ok(target.clone()));
    }
    Ok(results)
}

async fn change_one(
    accounts: &Accounts,
    command: &ChangeRelations,
    from: &UserId,
    to: &UserId,
) -> Result<(), ApiError> {
    let env = &accounts.env;
    until_settled(&accounts.turn, |_| async {
        let read_position = env.live.position();
        env.applied.wait_for(read_position).await?;
        let (version, holds) = env.store.load_relation(command.relation, from, to).await?;
        if holds == command.is_addition {
            return Ok(Outcome::Done(()));
        }
        let target = RelationTarget { to: to.clone() };
        let body = if command.is_addition {
            EventBody::RelationAdded(target)
        } else {
            EventBody::RelationRemoved(target)
        };
        let mut plan = Plan::default();
        plan.push(
            Stream::Relation(command.relation, from.clone()),
            version + 1,
            body,
        );
        Ok(
            match commit(&env.log, plan, read_position, &command.context).await? {
                Outcome::Done(_) => Outcome::Done(()),
                Outcome::Conflict => Outcome::Conflict,
            },
        )
    })
    .await
}
