//! Live queries: a result, and then everything that happens to it.
//!
//! 1. A **listener** is a connection of somebody; it has subscriptions. All that ask
//!    the same as the same user share a **view** ([`view`]): what is known of the
//!    result, by record, and how the user sees at present, the *lens*: roles, rules for
//!    fields, the types' fields ([`lens`]).
//! 2. A view is **loaded** ([`load`]): the store runs the query as of a position that
//!    it names. Whoever joins gets that result; what happens behind its position
//!    meanwhile is kept for him. So there is no gap, and nothing comes twice.
//! 3. The [`LiveFollower`] is the consumer of a delivery of what is committed: nobody waits
//!    for the store, except where something has to be looked up. It works out the record as
//!    each event left it, once for all views of the type, and each view tells `enter`,
//!    `change` or `leave` from what it knew.
//! 4. What changes the lens – a role, rules for fields, the type's fields – silences
//!    the view until it is loaded again; then the difference is told. A view whose
//!    condition looks beyond its own records is loaded again whenever those change.
//! 5. Whoever comes back **from** a position is told what he missed out of the log
//!    ([`replay`]), or that he has to start anew.
//!
//! [`listeners`] has all of this under one lock, which is never held while something is
//! waited for, nor while a query is held against a record, which may take long: what
//! queries say of a change is worked out before ([`judge`]), for the lens that each view
//! has; one that has another by then is asked again. With no listener, commits go by
//! unread.

mod follow;
mod frame;
mod judge;
mod lens;
mod listeners;
mod load;
mod outlet;
mod query;
mod replay;
mod service;
#[cfg(test)]
pub(crate) mod tests;
mod view;

pub use follow::LiveFollower;
pub use frame::Frame;
pub use lens::{Audience, Credential};
pub use listeners::LiveQueriesState;
pub use outlet::{Ended, Ending, Inbox, ListenerId};
pub use query::LiveQuery;
pub use service::{Connected, LiveQueries, LiveSettings, Subscribe};
