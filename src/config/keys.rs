//! The app's keys: configured, or created and stored on the first start.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use skytrail_actors::log::{folder_of, make_folder, write_whole};
use skytrail_schema::caller::KeyKind;

use super::{Config, Secret};
use crate::hex;
use crate::push::web::VapidKey;

/// The file in the data folder that stores keys.
pub const KEY_FILE: &str = "keys.json";

/// Where a key came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// The configuration.
    Configured,
    /// The data folder, where an earlier start stored it.
    Kept,
    /// Created just now.
    Made,
}

/// The keys in use.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The key that clients present.
    pub api: Secret,
    /// Where the client key came from.
    pub api_origin: KeyOrigin,
    /// The key that bypasses access control.
    pub master: Secret,
    /// Where the master key came from.
    pub master_origin: KeyOrigin,
    /// The secret that signs the addresses of files.
    pub asset_secret: Secret,
    /// The key by which browsers' push services identify the server.
    pub web_push: Secret,
}

/// The stored keys. A file whose checksum does not match is refused: with a changed key nobody
/// would get in, and nobody would know why.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    api_key: String,
    master_key: String,
    /// Absent in files of the first versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    asset_secret: String,
    /// Absent in files of the first versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    web_push: String,
    /// Absent in files of the first versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<u32>,
}

/// Why the stored keys cannot be used.
#[derive(Debug, thiserror::Error)]
enum KeyFileError {
    #[error("is damaged ({0}); restore it from a backup, or remove it to get new keys")]
    Damaged(String),
    /// The file may contain something that this version does not know. Removing it would then lose
    /// good keys.
    #[error(
        "is damaged, or a newer version wrote it ({0}); start that version, or restore it from a \
         backup"
    )]
    Unknown(String),
}

impl KeyFile {
    fn with_sum(self) -> Self {
        Self {
            checksum: Some(self.sum()),
            ..self
        }
    }

    fn sum(&self) -> u32 {
        let mut keys = format!("{} {}", self.api_key, self.master_key);
        for later in [&self.asset_secret, &self.web_push] {
            if !later.is_empty() {
                keys = format!("{keys} {later}");
            }
        }
        crc32fast::hash(keys.as_bytes())
    }

    /// Returns the same keys, with new ones where some are missing.
    fn completed(self) -> Self {
        let or_new = |key: String| if key.is_empty() { random_key() } else { key };
        Self {
            api_key: or_new(self.api_key),
            master_key: or_new(self.master_key),
            asset_secret: or_new(self.asset_secret),
            web_push: if self.web_push.is_empty() {
                VapidKey::random().to_text()
            } else {
                self.web_push
            },
            checksum: None,
        }
        .with_sum()
    }

    fn parse(bytes: &[u8]) -> Result<Self, KeyFileError> {
        let kept: Self = serde_json::from_slice(bytes).map_err(|error| match error.classify() {
            Category::Data => KeyFileError::Unknown(error.to_string()),
            _ => KeyFileError::Damaged(error.to_string()),
        })?;
        match kept.checksum {
            Some(checksum) if checksum != kept.sum() => Err(KeyFileError::Damaged(
                "its checksum does not match".to_owned(),
            )),
            _ => Ok(kept),
        }
    }
}

impl Keys {
    /// Returns the kind of a key; `None` if it is neither of the two.
    pub fn kind_of(&self, text: &str) -> Option<KeyKind> {
        let (is_master, is_client) = (self.master.matches(text), self.api.matches(text));
        match (is_master, is_client) {
            (true, _) => Some(KeyKind::Master),
            (false, true) => Some(KeyKind::Client),
            (false, false) => None,
        }
    }

    /// Returns the master key of a server that has been started before.
    ///
    /// # Errors
    /// The file in the data folder cannot be read.
    pub fn find_master(config: &Config) -> io::Result<Option<Secret>> {
        if let Some(key) = &config.app.master_key {
            return Ok(Some(key.clone()));
        }
        config.check_data_dir()?;
        let kept = read(&config.data_dir.join(KEY_FILE))?;
        Ok(kept.map(|kept| Secret::new(kept.master_key)))
    }

    /// Takes each key from the configuration, or else from the data folder. Missing keys are
    /// created and stored there, readable only by the owner.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn load_or_make(config: &Config) -> io::Result<Self> {
        let path = config.data_dir.join(KEY_FILE);
        let kept = read(&path)?;
        let origin = if kept.is_some() {
            KeyOrigin::Kept
        } else {
            KeyOrigin::Made
        };
        let configured = [
            &config.app.api_key,
            &config.app.master_key,
            &config.assets.secret,
        ];
        let web_push = config.push.web.as_ref();
        let is_complete = configured.iter().all(|key| key.is_some())
            && web_push.is_none_or(|settings| settings.key.is_some());
        let file = kept.clone().unwrap_or_default().completed();
        if !is_complete && kept.as_ref() != Some(&file) {
            write(&path, &file)?;
        }
        let choose = |configured: &Option<Secret>, other: String| match configured {
            Some(key) => (key.clone(), KeyOrigin::Configured),
            None => (Secret::new(other), origin),
        };
        let (api, api_origin) = choose(&config.app.api_key, file.api_key);
        let (master, master_origin) = choose(&config.app.master_key, file.master_key);
        let (asset_secret, _) = choose(&config.assets.secret, file.asset_secret);
        let web_push = config.push.web.as_ref();
        let web_push = web_push.and_then(|settings| settings.key.clone());
        let (web_push, _) = choose(&web_push, file.web_push);
        Ok(Self {
            asset_secret,
            web_push,
            api,
            api_origin,
            master,
            master_origin,
        })
    }
}

fn read(path: &Path) -> io::Result<Option<KeyFile>> {
    match std::fs::read(path) {
        Ok(bytes) => KeyFile::parse(&bytes)
            .map(Some)
            .map_err(|error| io::Error::other(format!("{} {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(path, &error)),
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn random_key() -> String {
    let bytes: [u8; 24] = rand::random();
    hex::encode(&bytes)
}

fn write(path: &Path, keys: &KeyFile) -> io::Result<()> {
    let folder = folder_of(path);
    make_folder(folder).map_err(|error| named(folder, &error))?;
    let bytes = serde_json::to_vec_pretty(keys).map_err(io::Error::other)?;
    write_whole(path, &bytes).map_err(|error| named(path, &error))
}

#[cfg(test)]
mod tests {
    use super::KeyFile;

    #[test]
    fn every_flipped_bit_is_noticed_unless_it_changes_no_key() {
        let made = KeyFile {
            api_key: "a1b2".repeat(12),
            master_key: "c3d4".repeat(12),
            asset_secret: "e5f6".repeat(12),
            web_push: "a7b8".repeat(12),
            checksum: None,
        }
        .with_sum();
        let bytes = serde_json::to_vec_pretty(&made).unwrap();
        assert!(KeyFile::parse(&bytes).is_ok_and(|parsed| parsed == made));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(parsed) = KeyFile::parse(&flipped) {
                assert!(parsed == made, "bit {bit}");
            }
        }
    }

    #[test]
    fn nobody_is_told_to_remove_what_a_newer_version_wrote() {
        let bytes = br#"{"api_key": "one", "master_key": "two", "later": "three"}"#;
        let error = KeyFile::parse(bytes).err().unwrap().to_string();
        assert!(error.contains("a newer version") && error.contains("later"));
        assert!(!error.contains("remove"), "{error}");
        let error = KeyFile::parse(b"{\"api_key\": ").err().unwrap().to_string();
        assert!(!error.contains("newer"), "{error}");
    }

    #[test]
    fn a_file_of_the_first_versions_is_read() {
        let bytes = br#"{"api_key": "one", "master_key": "two"}"#;
        assert!(KeyFile::parse(bytes).is_ok_and(|kept| kept.master_key == "two"));
    }
}
