//! Files: what is known of them (name, media type, size), and the values that name them.
//!
//! The bytes are the server's business. What is known of a file is a stream of events of its own;
//! neither the name nor the media type ever changes. Only an erasure takes a file back, and conflicts
//! with whoever names it meanwhile.

mod catalog;
mod gate;
mod register;

pub use catalog::{AssetCatalog, AssetUrls};
pub use gate::AssetGate;
pub use register::Assets;
