//! Users' auth rows: reading them, and creating those that the master key names.

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, Stream, UserState};
use skytrail_schema::id::UserId;
use uuid::Uuid;

use super::Accounts;
use crate::context::RequestContext;
use crate::record::apply::VersionedUser;
use crate::record::attempt::{Outcome, commit, retry_on_conflict, turn_of};
use crate::record::decide::Plan;

impl Accounts {
    /// Loads a user's auth row.
    ///
    /// # Errors
    /// The store failed.
    pub async fn load_user(&self, id: &UserId) -> Result<Option<UserState>, ApiError> {
        Ok(self.load(id).await?.1.map(|(_, state)| state))
    }

    /// Creates the auth row of a user whom the master key names, if it is missing. A sandbox stores
    /// nothing, but gets the same answer.
    ///
    /// # Errors
    /// Those of [`Accounts::refuse_erased`]; overload.
    pub async fn ensure_user(
        &self,
        id: &UserId,
        context: &RequestContext,
    ) -> Result<UserState, ApiError> {
        retry_on_conflict(turn_of(&self.turn, context), |_| async {
            let (position, user) = self.load(id).await?;
            if let Some((_, state)) = user {
                return Ok(Outcome::Done(state));
            }
            // A caller that has not heard of the erasure must not bring the user back.
            self.refuse_erased(id)?;
            if context.is_sandboxed {
                return Ok(Outcome::Done(UserState::default()));
            }
            let mut plan = Plan::default();
            let body = EventBody::UserCreated(UserState::default());
            plan.push(Stream::User(id.clone()), 1, body);
            Ok(
                match commit(&self.env.log, plan, position, context).await? {
                    Outcome::Done(_) => Outcome::Done(UserState::default()),
                    Outcome::Conflict => Outcome::Conflict,
                },
            )
        })
        .await
    }

    /// Appends what `change` plans on the basis of a user's present auth row; returns false if
    /// there is no such user, or if it plans no event.
    pub(super) async fn change_user(
        &self,
        id: &UserId,
        context: &RequestContext,
        change: impl Fn(&mut Plan, VersionedUser) + Sync,
    ) -> Result<bool, ApiError> {
        retry_on_conflict(turn_of(&self.turn, context), |_| async {
            let (position, user) = self.load(id).await?;
            let mut plan = Plan::default();
            if let Some(user) = user {
                change(&mut plan, user);
            }
            if plan.events.is_empty() {
                return Ok(Outcome::Done(false));
            }
            let done = commit(&self.env.log, plan, position, context).await?;
            Ok(done.map(|_| true))
        })
        .await
    }

    /// Loads a user's auth row as of the present.
    pub(super) async fn load(&self, id: &UserId) -> Result<(u64, Option<VersionedUser>), ApiError> {
        self.env.load_present_user(id).await
    }

    /// Returns a fresh user id.
    pub(super) fn new_user_id() -> UserId {
        UserId::new(Uuid::new_v4().to_string())
    }
}
