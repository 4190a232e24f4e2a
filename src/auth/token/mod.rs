//! Access tokens, in v1's three forms: [`jwt`] signs them and stores nothing, [`fs`] and [`redis`]
//! store them. Each reads the tokens that v1 left, so sessions survive the move.
//!
//! | | logout | new password | expiry |
//! | --- | --- | --- | --- |
//! | `jwt` | no effect | refused from then on | in the token |
//! | `fs` | forgotten | refused from then on | checked when read; the file is removed |
//! | `redis` | forgotten | refused from then on | checked when read; redis deletes the key |
//!
//! After a new password the HTTP door refuses older tokens by comparing the time of issue.

pub mod fs;
pub mod jwt;
pub mod redis;
mod stored;

use std::sync::Arc;

use skytrail_actors::accounts::ports::Tokens;

use crate::config::{self, TokenPlace};

/// Opens the token store that the configuration names; `secret` signs tokens of the `jwt` kind.
///
/// # Errors
/// The folder cannot be created, or the address is not a redis address.
pub fn open(
    config: &config::Tokens,
    app_name: &str,
    secret: &str,
) -> std::io::Result<Arc<dyn Tokens>> {
    let expiry = config.expiry;
    Ok(match &config.place {
        TokenPlace::Signed => Arc::new(jwt::JwtTokens::new(secret, app_name, expiry)),
        TokenPlace::Folder(folder) => Arc::new(fs::FsTokens::open(folder, app_name, expiry)?),
        TokenPlace::Redis { url, prefix } => {
            let opened = redis::RedisTokens::open(url.reveal(), prefix, app_name, expiry);
            Arc::new(opened.map_err(std::io::Error::other)?)
        }
    })
}
