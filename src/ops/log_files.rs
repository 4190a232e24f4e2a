//! Compares the stored files with their hashes in the log.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use indicatif::ProgressBar;
use skytrail_actors::log::journal::Segments;
use skytrail_schema::event::{AssetUpload, EventBody, Stream};
use skytrail_schema::id::AssetName;

use super::log::for_each;
use super::remote::block_on;
use super::{fail_with, say};
use crate::asset::{FileError, FileStore, open_to_read};
use crate::config::Config;

/// The greatest number of differing files that are named.
const MAX_NAMED: usize = 20;

/// Reads every file that the log knows. Fails if one is not what was uploaded.
pub(super) fn verify(config: &Config, segments: &Segments) -> Result<(), String> {
    let uploaded = uploaded(segments)?;
    block_on(async {
        let store = open_to_read(config).await.map_err(|it| it.to_string())?;
        let bar = ProgressBar::new(uploaded.len() as u64);
        let (mut num_same, mut unknown, mut wrong) = (0, Vec::new(), Vec::new());
        for (name, upload) in &uploaded {
            match compare(&*store, name, upload).await {
                Ok(Compared::Same) => num_same += 1,
                Ok(Compared::Unknown) => unknown.push(name),
                Ok(Compared::Other(how)) => wrong.push(format!("{name}: {how}")),
                Err(error) => wrong.push(format!("{name}: {error}")),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        say(&format!("{num_same} files are as they were uploaded"));
        if !unknown.is_empty() {
            let number = unknown.len();
            say(&format!(
                "{number} files have the right size; the log has no hash of them"
            ));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let number = wrong.len();
        let mut lines = vec![format!("{number} files are not as they were uploaded:")];
        lines.extend(wrong.iter().take(MAX_NAMED).map(|it| format!("  {it}")));
        fail_with(lines)
    })
}

/// Returns the files that were uploaded and not erased, each with its last upload.
fn uploaded(segments: &Segments) -> Result<BTreeMap<AssetName, AssetUpload>, String> {
    let mut uploaded = BTreeMap::new();
    for_each(segments, 1, |_, event| {
        match (&event.body, &event.stream) {
            (EventBody::AssetUploaded(upload), Stream::Asset(name)) => {
                uploaded.insert(name.clone(), upload.clone());
            }
            (EventBody::ErasureRequested(request), _) => {
                for name in &request.files {
                    uploaded.remove(name);
                }
            }
            _ => {}
        }
        true
    })?;
    Ok(uploaded)
}

enum Compared {
    Same,
    /// The size is the same, and the log has no hash.
    Unknown,
    Other(&'static str),
}

async fn compare(
    store: &dyn FileStore,
    name: &AssetName,
    upload: &AssetUpload,
) -> Result<Compared, FileError> {
    let stored = match store.open(name, None).await {
        Err(FileError::Missing) => return Ok(Compared::Other("it does not exist")),
        stored => stored?,
    };
    if stored.size != upload.size {
        return Ok(Compared::Other("it has a different size"));
    }
    let Some(expected) = &upload.blake3 else {
        return Ok(Compared::Unknown);
    };
    let (mut bytes, mut hasher) = (stored.bytes, blake3::Hasher::new());
    while let Some(chunk) = bytes.try_next().await? {
        hasher.update(&chunk);
    }
    let is_same = hasher.finalize().to_hex().as_str() == expected;
    Ok(if is_same {
        Compared::Same
    } else {
        Compared::Other("its content differs")
    })
}
