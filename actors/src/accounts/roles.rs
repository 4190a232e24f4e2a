//! Roles: what they give access to, and who has them.

use std::collections::{BTreeMap, BTreeSet};

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, RoleFlags, Stream, UserPatch, UserState};
use skytrail_schema::id::{RoleName, UserId};

use super::Accounts;
use super::messages::{ChangeRoles, RoleFlag, SetFlaggedRoles};
use crate::context::RequestContext;
use crate::record::attempt::{Outcome, commit, retry_on_conflict, turn_of};
use crate::record::decide::Plan;

impl Accounts {
    /// Gives or takes roles.
    ///
    /// # Errors
    /// Overload.
    pub async fn change_roles(&self, command: ChangeRoles) -> Result<(), ApiError> {
        let roles = command.roles;
        let requested = if command.is_assignment {
            roles.clone()
        } else {
            BTreeSet::new()
        };
        self.change_users(&command.users, &command.context, &requested, |state| {
            let roles = roles.iter().cloned();
            let patch = if command.is_assignment {
                let roles_added = roles.filter(|role| !state.roles.contains(role)).collect();
                UserPatch {
                    roles_added,
                    ..UserPatch::default()
                }
            } else {
                let roles_removed = roles.filter(|role| state.roles.contains(role)).collect();
                UserPatch {
                    roles_removed,
                    ..UserPatch::default()
                }
            };
            (patch != UserPatch::default()).then_some(patch)
        })
        .await
    }

    /// Sets which roles carry a flag.
    ///
    /// # Errors
    /// Overload.
    pub async fn set_flagged_roles(&self, command: SetFlaggedRoles) -> Result<(), ApiError> {
        retry_on_conflict(turn_of(&self.turn, &command.context), |_| async {
            let read_position = self.env.model.position();
            let mut plan = Plan::default();
            let roles_now = self.env.model.get_roles();
            let names: BTreeSet<_> = roles_now.keys().chain(&command.roles).cloned().collect();
            for name in names {
                let (version, before) = roles_now.get(&name).copied().unwrap_or_default();
                let is_set = command.roles.contains(&name);
                let after = match command.flag {
                    RoleFlag::Default => RoleFlags {
                        by_default: is_set,
                        ..before
                    },
                    RoleFlag::Admin => RoleFlags {
                        is_admin: is_set,
                        ..before
                    },
                };
                if after != before || version == 0 {
                    plan.push(
                        Stream::Role(name),
                        version + 1,
                        EventBody::RoleDefined(after),
                    );
                }
            }
            if plan.events.is_empty() {
                return Ok(Outcome::Done(()));
            }
            let done = commit(&self.env.log, plan, read_position, &command.context).await?;
            Ok(done.discard())
        })
        .await
    }

    /// Returns all roles, with their flags.
    pub fn list_roles(&self) -> BTreeMap<RoleName, RoleFlags> {
        let roles = self.env.model.get_roles().into_iter();
        roles.map(|(name, (_, flags))| (name, flags)).collect()
    }

    /// Returns users' roles; users that do not exist have none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn roles_of(
        &self,
        users: &[UserId],
    ) -> Result<BTreeMap<UserId, BTreeSet<RoleName>>, ApiError> {
        let mut roles = BTreeMap::new();
        for id in users {
            let (_, user) = self.load(id).await?;
            roles.insert(
                id.clone(),
                user.map(|(_, state)| state.roles).unwrap_or_default(),
            );
        }
        Ok(roles)
    }

    /// Whether one of the roles gives access to the administrators' actions.
    pub fn is_admin(&self, roles: &BTreeSet<RoleName>) -> bool {
        let roles_now = self.env.model.get_roles();
        roles
            .iter()
            .any(|role| roles_now.get(role).is_some_and(|(_, flags)| flags.is_admin))
    }

    /// Changes users' auth rows until there is no conflict; `patch` gets each user's present state.
    async fn change_users(
        &self,
        users: &[UserId],
        context: &RequestContext,
        roles: &BTreeSet<RoleName>,
        patch: impl Fn(&UserState) -> Option<UserPatch> + Sync,
    ) -> Result<(), ApiError> {
        retry_on_conflict(turn_of(&self.turn, context), |_| async {
            let mut read_position = self.env.model.position();
            let mut plan = Plan::default();
            plan.define_roles(&self.env, roles.iter());
            // Each user once: a request can name one twice.
            for id in users.iter().collect::<BTreeSet<_>>() {
                let (position, user) = self.load(id).await?;
                read_position = read_position.min(position);
                let Some((version, state)) = user else {
                    continue;
                };
                if let Some(patch) = patch(&state) {
                    let body = EventBody::UserChanged(patch);
                    plan.push(Stream::User(id.clone()), version + 1, body);
                }
            }
            if plan.events.is_empty() {
                return Ok(Outcome::Done(()));
            }
            let done = commit(&self.env.log, plan, read_position, context).await?;
            Ok(done.discard())
        })
        .await
    }
}
