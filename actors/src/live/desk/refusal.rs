//! Who may not listen any more.

use std::collections::BTreeSet;

use skytrail_schema::event::{Event, EventBody, Stream, UserState};
use skytrail_schema::time::Timestamp;

use super::super::outlet::Ending;
use super::super::view::MemberKey;
use super::{Desk, Listener, ViewId};
use crate::accounts::admission::{bad_token, refuse_disabled, refuse_revoked};

impl Desk {
    /// Ends the connections of those who came with a token.
    pub(in super::super) fn forget_token(&mut self, token: &str) {
        let is_its = |listener: &Listener| listener.credential.token.as_deref() == Some(token);
        let its = self.listeners.iter().filter(|(_, it)| is_its(it));
        let ids: Vec<_> = its.map(|(id, _)| *id).collect();
        for id in ids {
            self.end(id, Ending::Refused(bad_token()));
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
        let judge = |as_of| {
            if is_removed {
                return Err(bad_token());
            }
            refuse_disabled(&state, now)?;
            refuse_revoked(&state, as_of)
        };
        let is_his = |listener: &Listener| {
            !listener.audience.is_master && listener.audience.user.as_ref() == Some(user)
        };
        let his = self.listeners.iter().filter(|(_, it)| is_his(it));
        let refused: Vec<_> = his
            .filter_map(|(id, listener)| Some((*id, judge(listener.credential.as_of).err()?)))
            .collect();
        for (id, error) in refused {
            self.end(id, Ending::Refused(error));
        }
    }

    /// Ends the connections of a view whose tokens are from before the user's new password: who came
    /// while nobody followed the log has not been told of that.
    pub(super) fn refuse_revoked(&mut self, id: ViewId, valid_since: Option<Timestamp>) {
        let state = UserState {
            token_valid_since: valid_since,
            ..UserState::default()
        };
        let Some(view) = self.views.get(&id).filter(|_| valid_since.is_some()) else {
            return;
        };
        let judge = |(id, _): &MemberKey| {
            let listener = self.listeners.get(id)?;
            let as_of = listener.credential.as_of;
            let may = listener.audience.is_master || refuse_revoked(&state, as_of).is_ok();
            (!may).then_some(*id)
        };
        let refused: BTreeSet<_> = view.members().filter_map(judge).collect();
        for id in refused {
            self.end(id, Ending::Refused(bad_token()));
        }
    }
}
