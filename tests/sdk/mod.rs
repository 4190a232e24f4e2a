//! The published v1 packages as clients, unmodified: the JavaScript SDK in node and in a browser,
//! the container API of the Python SDK.

mod browser;
mod container;
mod javascript;
mod plugin;
mod report;

use crate::support::program::{repository, set_up};
