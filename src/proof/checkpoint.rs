//! One signed statement about the log.

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use skytrail_schema::chain::ChainHash;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use crate::hex;

/// States that at this time, this store's log had this chain hash at this position.
///
/// The signed text has six lines, each of which ends with a line feed: `skytrail checkpoint 1`, the
/// store's id, the position, the time in microseconds since 1970, the chain hash in hexadecimal
/// digits, and the public key in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The store's id.
    pub store_id: Uuid,
    /// The last position of a commit.
    pub position: u64,
    /// The time of the signature.
    pub time: Timestamp,
    /// The chain hash at the position.
    #[serde(with = "crate::hex")]
    pub chain: ChainHash,
    /// The signer's public key, in hexadecimal digits.
    pub key: String,
    /// The signature, in hexadecimal digits.
    pub signature: String,
}

impl Checkpoint {
    /// Returns the text that is signed.
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

    /// Returns whether the signature was made with a key.
    pub fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        let bytes = hex::decode::<64>(&self.signature);
        let signature = bytes.map(|bytes| Signature::from_bytes(&bytes));
        let statement = self.statement();
        self.key == hex::encode(key.as_bytes())
            && signature.is_some_and(|it| key.verify_strict(statement.as_bytes(), &it).is_ok())
    }
}
