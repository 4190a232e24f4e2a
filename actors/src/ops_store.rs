//! What is kept beside the log and is no projection of it: how far consumers are, their dead letters,
//! pushes that wait.
//!
//! Whoever has something to keep there has a port of his own: [`ConsumerStore`](crate::delivery::consumers::ConsumerStore),
//! [`Positions`](crate::delivery::Positions), [`Outbox`](crate::push::Outbox). One error is theirs all.

/// Why the ops store did not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("ops.sqlite: {0}")]
pub struct OpsStoreError(pub String);
