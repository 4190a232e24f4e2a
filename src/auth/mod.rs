//! Passwords and tokens: what the accounts need from outside.

pub mod password;
pub mod throttle;
pub mod token;
