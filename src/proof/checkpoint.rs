//! One signed statement about the log.

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use skytrail_schema::chain::ChainHash;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use crate::hex;

/// At this time, this store's log had this chain hash at this position.
///
/// What is signed is a text of six lines, each with a line feed behind it: `skytrail checkpoint 1`,
/// the store's id, the position, the time in microseconds since 1970, the chain hash in hexadecimal
/// digits, and the public key likewise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which store.
    pub store_id: Uuid,
    /// The last position of a commit.
    pub position: u64,
    /// When it was signed.
    pub time: Timestamp,
    /// The chain hash at the position.
    #[serde(with = "crate::hex")]
    pub chain: ChainHash,
    /// Whose signature it is: the public key, in hexadecimal digits.
    pub key: String,
    /// The signature, in hexadecimal digits.
    pub signature: String,
}

impl Checkpoint {
    /// Returns what is signed.
    pub(super) fn statement(&self) -> String {
        format!(
            "skytrail checkpoint 1\n{}\n{}\n{}\n{}\n{}\n",
            self.store_id,
            self.position,
            self.time.micros(),
            hex::encode(&self.chain),
            self.key
        )
    }

    /// Whether the signature is that of a key.
    pub fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        let bytes = hex::decode::<64>(&self.signature);
        let signature = bytes.map(|bytes| Signature::from_bytes(&bytes));
        let statement = self.statement();
        self.key == hex::encode(key.as_bytes())
            && signature.is_some_and(|it| key.verify_strict(statement.as_bytes(), &it).is_ok())
    }
}
