//! Live queries: a result, and then everything that happens to it.
//!
//! 1. A **listener** is a connection; it has subscriptions. All subscriptions that ask the same as
//!    the same user share a **view** ([`view`]). It has what is known of the result, by record, and
//!    how the user sees at present, the *lens*: roles, field rules, the types' fields ([`lens`]).
//! 2. A view is **loaded** ([`load`]): the store runs the query as of a position that it names, and
//!    the result is what the log says up to there. A listener that joins gets that result. Whatever
//!    happens after its position meanwhile is kept for the listener, so there is no gap, and nothing
//!    arrives twice.
//! 3. The [`LiveFollower`] is the consumer of a delivery of commits. Nobody waits for the store,
//!    except where something has to be looked up. The follower works out the record as each event
//!    left it, once for all views of the type. From what it knew, each view tells `enter`, `change`
//!    or `leave`.
//! 4. A change of the lens – of a role, of field rules, of the type's fields – silences the view
//!    until it is loaded again; then the difference is told. A view whose condition looks beyond
//!    its own records is loaded again whenever the others change.
//! 5. A listener that comes back **from** a position is told from the log what it missed
//!    ([`replay`]), or that it has to start anew. Members of a view that come back from the same
//!    position share what was found.
//!
//! [`listeners`] holds all of this under one lock. The lock is never held while something is waited
//! for, nor while a query is held against a record, which may take long. What queries say of a
//! change is worked out before that ([`matcher`]), for the lens that each view has. A view that has
//! another lens by then is asked again. With no listener, commits go by unread.

mod follow;
mod frame;
mod frame_sender;
mod lens;
mod listeners;
mod load;
mod matcher;
mod query;
mod replay;
mod service;
#[cfg(test)]
pub(crate) mod tests;
mod view;

pub use follow::LiveFollower;
pub use frame::Frame;
pub use frame_sender::{EndReason, Ended, Inbox, ListenerId};
pub use lens::{Audience, Credential};
pub use listeners::LiveQueriesState;
pub use query::LiveQuery;
pub use service::{ALWAYS_TOLD, Connected, LiveQueries, LiveSettings, Subscribe};
