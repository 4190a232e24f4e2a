//! The key that signs checkpoints, in a file of its own that only the owner can read.

use std::io;
use std::path::Path;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use skytrail_actors::log::write_whole;
use skytrail_schema::chain::ChainHash;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::Checkpoint;
use crate::hex;

/// The key's file in the data folder: `skytrail-log-key 1 <secret> <public>`.
pub const KEY_FILE: &str = "log.key";
const HEAD: &str = "skytrail-log-key 1";

/// The key of a log.
#[derive(Clone)]
pub struct LogKey(SigningKey);

impl LogKey {
    /// Reads the key of a data folder; `None` if it has none yet.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn load(data_dir: &Path) -> io::Result<Option<Self>> {
        let path = data_dir.join(KEY_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).map(Some).ok_or_else(|| {
                let path = path.display();
                io::Error::other(format!("{path} is damaged; restore it from a backup"))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io::Error::other(format!("{}: {error}", path.display()))),
        }
    }

    /// Like [`LogKey::load`], but creates the key if it does not exist.
    ///
    /// # Errors
    /// Those of `load`, or the file cannot be written.
    pub fn load_or_make(data_dir: &Path) -> io::Result<Self> {
        if let Some(key) = Self::load(data_dir)? {
            return Ok(key);
        }
        let key = Self(SigningKey::from_bytes(&rand::random()));
        let text = format!(
            "{HEAD} {} {}\n",
            hex::encode(key.0.as_bytes()),
            key.public_text()
        );
        write_whole(&data_dir.join(KEY_FILE), text.as_bytes())?;
        Ok(key)
    }

    /// Returns the public key, which signatures are checked with.
    pub fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    /// Returns the public key as hexadecimal digits.
    pub fn public_text(&self) -> String {
        hex::encode(self.public().as_bytes())
    }

    /// Signs the end of a store's log.
    pub fn sign(
        &self,
        store_id: Uuid,
        (position, chain): (u64, ChainHash),
        time: Timestamp,
    ) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            store_id,
            position,
            time,
            chain,
            key: self.public_text(),
            signature: String::new(),
        };
        let signature = self.0.sign(checkpoint.statement().as_bytes());
        checkpoint.signature = hex::encode(&signature.to_bytes());
        checkpoint
    }
}

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogKey").field(&self.public_text()).finish()
    }
}

/// Parses a public key from hexadecimal digits.
pub fn parse_public(text: &str) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(&hex::decode(text.trim())?).ok()
}

fn parse(text: &str) -> Option<LogKey> {
    let (secret, public) = text.trim().strip_prefix(HEAD)?.trim().split_once(' ')?;
    let key = LogKey(SigningKey::from_bytes(&hex::decode(secret)?));
    (key.public_text() == public).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_a_damaged_one_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(LogKey::load(folder.path()).unwrap().is_none());
        let made = LogKey::load_or_make(folder.path()).unwrap();
        let kept = LogKey::load_or_make(folder.path()).unwrap();
        assert_eq!(made.public_text(), kept.public_text());
        let path = folder.path().join(KEY_FILE);
        let text = std::fs::read(&path).unwrap();
        for at in 0..text.len() - 1 {
            let mut flipped = text.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            assert!(LogKey::load(folder.path()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_signature_is_for_one_statement_and_one_key() {
        let key = LogKey(SigningKey::from_bytes(&[1; 32]));
        let other = LogKey(SigningKey::from_bytes(&[2; 32]));
        let time = Timestamp::from_micros(9);
        let signed = key.sign(Uuid::nil(), (7, [3; 32]), time);
        assert!(signed.is_signed_by(&key.public()));
        assert!(!signed.is_signed_by(&other.public()));
        let changes: [fn(&mut Checkpoint); 6] = [
            |it| it.position = 8,
            |it| it.chain[31] ^= 1,
            |it| it.time = Timestamp::from_micros(10),
            |it| it.store_id = Uuid::max(),
            |it| it.key = hex::encode(&[9; 32]),
            |it| it.signature = it.signature.replace('a', "b"),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut changed = signed.clone();
            change(&mut changed);
            let is_same = changed == signed;
            assert!(is_same || !changed.is_signed_by(&key.public()), "{number}");
        }
        let public = parse_public(&key.public_text()).unwrap();
        assert!(signed.is_signed_by(&public));
    }
}
