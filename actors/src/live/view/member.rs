//! Who listens through a view.

use std::sync::Arc;

use super::super::frame::{Frame, Label};
use super::super::outlet::ListenerId;

/// Who listens, and what he calls it.
pub(in super::super) type MemberKey = (ListenerId, Arc<str>);

/// Frames on their way to listeners.
pub(in super::super) type Post = Vec<(ListenerId, Frame)>;

/// A subscription.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) label: Label,
    /// He has had, or will get otherwise, everything up to here.
    pub(super) since: u64,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// He is told at once.
    Live,
    /// He waits for the result of that load or a later one; what happens meanwhile is kept.
    Waiting {
        load: u64,
        reset: Option<&'static str>,
        kept: Vec<(u64, Frame)>,
    },
    /// He comes back from a position, and waits until the view is settled.
    Returning(u64),
    /// What he missed is being looked up, by that replay.
    CatchingUp {
        replay: u64,
        kept: Vec<(u64, Frame)>,
    },
}

impl Member {
    /// Takes a frame that is about `position`.
    pub(super) fn take(
        &mut self,
        listener: ListenerId,
        position: u64,
        frame: Frame,
        post: &mut Post,
    ) {
        match &mut self.state {
            State::Live if position > self.since => post.push((listener, frame)),
            State::Waiting { kept, .. } | State::CatchingUp { kept, .. } => {
                kept.push((position, frame))
            }
            State::Live | State::Returning(_) => {}
        }
    }

    /// Goes on with what is kept behind what he has had so far.
    pub(super) fn go_live(&mut self, listener: ListenerId, since: u64, post: &mut Post) {
        self.since = self.since.max(since);
        let state = std::mem::replace(&mut self.state, State::Live);
        if let State::Waiting { kept, .. } | State::CatchingUp { kept, .. } = state {
            let since = self.since;
            let later = kept.into_iter().filter(|(position, _)| *position > since);
            post.extend(later.map(|(_, frame)| (listener, frame)));
        }
    }
}
