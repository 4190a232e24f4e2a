//! Files: what is known of them (name, media type, size), and the values that name them.
//!
//! The bytes are up to the server. What is known of a file is in an event stream of its own;
//! neither its name nor its media type ever changes. Only an erasure removes a file, and it
//! conflicts with any save that names the file meanwhile.

mod catalog;
mod gate;
mod register;

pub use catalog::{AssetCatalog, AssetUrls};
pub use gate::AssetGate;
pub use register::Assets;
