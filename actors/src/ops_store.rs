//! What is kept next to the log and is not a projection of it: how far consumers are, their dead
//! letters, pushes that wait.
//!
//! Each part that keeps something there has its own port:
//! [`ConsumerStore`](crate::delivery::consumers::ConsumerStore),
//! [`PositionStore`](crate::delivery::PositionStore), [`Outbox`](crate::push::Outbox). They share
//! one error.

/// Why the ops store did not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("ops.sqlite: {0}")]
pub struct OpsStoreError(pub String);
