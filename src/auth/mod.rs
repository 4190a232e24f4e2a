//! Passwords and tokens: the implementations that accounts need from outside.

pub mod custom_token;
pub mod password;
pub mod refusals;
mod signed;
pub mod strength;
pub mod throttle;
pub mod token;
