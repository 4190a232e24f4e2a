//! Who may not listen any more.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Event, EventBody, Stream, UserState};
use skytrail_schema::field_access::IS_VERIFIED;
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;

use super::super::frame_sender::EndReason;
use super::super::lens::Audience;
use super::super::view::MemberKey;
use super::{Listener, Listeners, ViewId};
use crate::accounts::admission::{bad_token, refuse_revoked, unverified};

impl Listeners {
    /// Ends the connections that came with a token.
    pub(in super::super) fn forget_token(&mut self, token: &str) {
        let is_its = |listener: &Listener| listener.credential.token.as_deref() == Some(token);
        let its = self.listeners.iter().filter(|(_, it)| is_its(it));
        let ids: Vec<_> = its.map(|(id, _)| *id).collect();
        for id in ids {
            self.end(id, EndReason::Refused(bad_token()));
        }
    }

    /// Ends the connections of a user who may not act any more.
    pub(super) fn refuse(&mut self, event: &Event, now: Timestamp) {
        let Stream::User(user) = &event.stream else {
            return;
        };
        let mut state = UserState::default();
        let mut is_removed = false;
        match &event.body {
            EventBody::UserDisabled(disabled) => state.disabled = Some(disabled.clone()),
            EventBody::UserPasswordSet(set) => state.token_valid_since = Some(set.at),
            EventBody::UserRemoved(_) => is_removed = true,
            _ => return,
        }
        let check = |as_of| {
            if is_removed {
                return Err(bad_token());
            }
            state.check_enabled(now)?;
            refuse_revoked(&state, as_of)
        };
        self.refuse_those_of(user.as_str(), check);
    }

    /// Ends the connections of a user whose record no longer says that they are verified, if users
    /// must be.
    pub(in super::super) fn refuse_unverified(&mut self, id: &RecordId, event: &Event) {
        let is_true = |said: Option<&Json>| said == Some(&Json::Bool(true));
        let may_listen = match &event.body {
            EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => {
                is_true(state.fields.get(IS_VERIFIED))
            }
            EventBody::RecordChanged(patch) => match patch.set.get(IS_VERIFIED) {
                None => !patch.unset.contains(IS_VERIFIED),
                said => is_true(said),
            },
            EventBody::RecordDeleted(_) => false,
            _ => true,
        };
        if id.record_type.is_user() && !may_listen {
            self.refuse_those_of(id.key.as_str(), |_| Err(unverified()));
        }
    }

    /// Ends those connections of a user that `check` refuses, given when their user was judged.
    fn refuse_those_of(
        &mut self,
        user: &str,
        check: impl Fn(Option<Timestamp>) -> Result<(), ApiError>,
    ) {
        let belongs_to_user = |audience: &Audience| {
            let id = audience.user.as_ref();
            !audience.is_master && id.is_some_and(|id| id.as_str() == user)
        };
        let of_user = self
            .listeners
            .iter()
            .filter(|(_, it)| belongs_to_user(&it.audience));
        let refused: Vec<_> = of_user
            .filter_map(|(id, listener)| Some((*id, check(listener.credential.as_of).err()?)))
            .collect();
        for (id, error) in refused {
            self.end(id, EndReason::Refused(error));
        }
    }

    /// Ends the connections of a view whose tokens are older than the user's new password. A
    /// listener that came while nobody followed the log has not been told of that.
    pub(super) fn refuse_revoked(&mut self, id: ViewId, valid_since: Option<Timestamp>) {
        let state = UserState {
            token_valid_since: valid_since,
            ..UserState::default()
        };
        let Some(view) = self.views.get(&id).filter(|_| valid_since.is_some()) else {
            return;
        };
        let check = |(id, _): &MemberKey| {
            let listener = self.listeners.get(id)?;
            let as_of = listener.credential.as_of;
            let may = listener.audience.is_master || refuse_revoked(&state, as_of).is_ok();
            (!may).then_some(*id)
        };
        let refused: BTreeSet<_> = view.members().filter_map(check).collect();
        for id in refused {
            self.end(id, EndReason::Refused(bad_token()));
        }
    }
}
