//! Who listens through a view.

use std::sync::Arc;

use super::super::frame::{Frame, Label};
use super::super::frame_sender::ListenerId;

/// A listener, and its name for the subscription.
pub(in super::super) type MemberKey = (ListenerId, Arc<str>);

/// Frames on their way to listeners.
pub(in super::super) type Post = Vec<(ListenerId, Frame)>;

/// A subscription.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) label: Label,
    /// The member has received everything up to here, or will get it otherwise.
    pub(super) since: u64,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// The member is told at once.
    Live,
    /// The member waits for the result of that load or a later one; what happens meanwhile is kept.
    Waiting {
        load: u64,
        reset: Option<&'static str>,
        kept: PendingFrames,
    },
    /// The member comes back from a position, and waits until the view is settled.
    Returning(u64),
    /// What the member missed is being looked up, by that replay.
    CatchingUp { replay: u64, kept: PendingFrames },
}

impl State {
    /// The member waits for a load; `reset` is why what it has received is void.
    pub(super) fn waiting(load: u64, reset: Option<&'static str>) -> Self {
        Self::Waiting {
            load,
            reset,
            kept: PendingFrames::default(),
        }
    }
}

/// Frames that wait for others that precede them.
#[derive(Debug, Default)]
pub(super) struct PendingFrames {
    frames: Vec<(u64, Frame)>,
    num_bytes: usize,
    /// There were too many: nothing is kept, and the member begins anew.
    pub(super) is_lost: bool,
}

impl PendingFrames {
    fn push(&mut self, position: u64, frame: Frame, max_bytes: usize) {
        self.num_bytes += frame.num_bytes();
        if self.num_bytes > max_bytes {
            self.is_lost = true;
            self.frames = Vec::new();
        }
        if !self.is_lost {
            self.frames.push((position, frame));
        }
    }
}

impl Member {
    /// Whether the member waits for that replay.
    pub(super) fn awaits(&self, number: u64) -> bool {
        matches!(self.state, State::CatchingUp { replay, .. } if replay == number)
    }

    /// Sends a frame about `position`, or keeps it; at most `max_bytes` are kept.
    pub(super) fn take(
        &mut self,
        listener: ListenerId,
        (position, frame): (u64, Frame),
        max_bytes: usize,
        post: &mut Post,
    ) {
        match &mut self.state {
            State::Live if position > self.since => post.push((listener, frame)),
            State::Waiting { kept, .. } | State::CatchingUp { kept, .. } => {
                kept.push(position, frame, max_bytes);
            }
            State::Live | State::Returning(_) => {}
        }
    }

    /// Goes on with the kept frames that are after what the member has received so far.
    pub(super) fn go_live(&mut self, listener: ListenerId, since: u64, post: &mut Post) {
        self.since = self.since.max(since);
        let state = std::mem::replace(&mut self.state, State::Live);
        if let State::Waiting { kept, .. } | State::CatchingUp { kept, .. } = state {
            let since = self.since;
            let later = kept
                .frames
                .into_iter()
                .filter(|(position, _)| *position > since);
            post.extend(later.map(|(_, frame)| (listener, frame)));
        }
    }
}
