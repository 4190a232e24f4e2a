//! The hash chain over commits.
//!
//! A commit's chain hash covers the previous one, everything that the commit says about itself, and
//! the *hashes* of its payloads. So a payload can be erased later and the chain still verifies.

/// A link of the chain.
pub type ChainHash = [u8; 32];

/// The hash before the first commit of a log.
pub const GENESIS: ChainHash = [0; 32];

/// Returns the chain hash of a commit. `header` is its encoded header. `events` alternates between
/// the encoded head of each event and the hash of its payload.
pub fn link<'a>(
    previous: &ChainHash,
    header: &[u8],
    events: impl Iterator<Item = &'a [u8]>,
) -> ChainHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous);
    hasher.update(header);
    for event in events {
        hasher.update(event);
    }
    *hasher.finalize().as_bytes()
}

/// Returns the hash of a payload. The salt keeps short personal values from being guessed.
pub fn payload_hash(salt: &[u8; 16], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(salt);
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}
