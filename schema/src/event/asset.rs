//! What happens to files. Their bytes are in a file store, never in an event.

use serde::{Deserialize, Serialize};

/// What is known about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetState {
    /// The media type, as given at registration; never changes.
    pub content_type: String,
    /// The size in bytes: the announced one at first, then that of the last upload.
    pub size: u64,
}

/// See [`EventBody::AssetUploaded`](super::EventBody::AssetUploaded).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetUpload {
    /// The size in bytes.
    pub size: u64,
    /// The BLAKE3 hash of the bytes, in hexadecimal; absent in logs of earlier builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}
