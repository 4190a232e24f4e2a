//! Tokens as files, one each, in v1's layout: `<folder>/<token>` holds JSON.
//!
//! Files are written without a flush: after a power loss the newest sessions may be missing, and
//! their users must sign in again. All file work is done on the blocking pool.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use skytrail_actors::accounts::ports::{TokenClaims, Tokens};
use skytrail_actors::spawn::spawn_named;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::UserId;
use skytrail_schema::time::Timestamp;

use super::stored::{StoredToken, is_token};

/// No token file is larger.
const MAX_BYTES: u64 = 16 * 1024;
/// How often files of expired tokens are looked for, in microseconds.
const SWEEP_EVERY: i64 = 3600 * 1_000_000;

/// See the module's overview.
pub struct FsTokens {
    folder: Arc<Path>,
    app_name: String,
    expiry: Option<Duration>,
    swept_at: AtomicI64,
}

impl FsTokens {
    /// Opens a folder of tokens, and creates it if it does not exist. Without `expiry` new tokens
    /// are valid for ever.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn open(folder: &Path, app_name: &str, expiry: Option<Duration>) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        Ok(Self {
            folder: folder.into(),
            app_name: app_name.to_owned(),
            expiry,
            swept_at: AtomicI64::new(i64::MIN),
        })
    }

    /// Removes the files of expired tokens from time to time: the tokens may never be shown again.
    fn sweep_if_due(&self, now: Timestamp) {
        let last = self.swept_at.load(Ordering::Relaxed);
        let is_due = now.micros().saturating_sub(last) >= SWEEP_EVERY;
        let is_mine = || {
            let (mine, relaxed) = (now.micros(), Ordering::Relaxed);
            let taken = self.swept_at.compare_exchange(last, mine, relaxed, relaxed);
            taken.is_ok()
        };
        if !is_due || !is_mine() {
            return;
        }
        let folder = Arc::clone(&self.folder);
        spawn_named("remove expired tokens", async move {
            match in_background(move || sweep(&folder, now)).await {
                Ok(0) => {}
                Ok(num_removed) => tracing::info!(num_removed, "expired tokens removed"),
                Err(error) => tracing::warn!(%error, "expired tokens could not be removed"),
            }
        });
    }
}

#[async_trait]
impl Tokens for FsTokens {
    async fn issue(
        &self,
        user: &UserId,
        valid_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<String, ApiError> {
        let token = StoredToken::issue(user, &self.app_name, valid_since, (now, self.expiry));
        let text = token.access_token.clone();
        let path = self.folder.join(&text);
        in_background(move || write(&path, &token))
            .await
            .map_err(unavailable)?;
        self.sweep_if_due(now);
        Ok(text)
    }

    async fn read(&self, token: &str, now: Timestamp) -> Result<Option<TokenClaims>, ApiError> {
        if !is_token(token) {
            return Ok(None);
        }
        let (path, shown) = (self.folder.join(token), token.to_owned());
        let read = move || {
            let stored = read(&path)?;
            if stored.as_ref().is_some_and(|stored| stored.is_over(now)) {
                remove(&path)?;
            }
            Ok(stored.and_then(|stored| stored.claims(&shown, now)))
        };
        in_background(read).await.map_err(unavailable)
    }

    async fn forget(&self, token: &str) -> Result<(), ApiError> {
        if !is_token(token) {
            return Ok(());
        }
        let path = self.folder.join(token);
        in_background(move || remove(&path))
            .await
            .map_err(unavailable)
    }
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

fn unavailable(error: io::Error) -> ApiError {
    tracing::error!(%error, "the token store failed");
    ApiError::unexpected("the token store failed")
}

fn write(path: &Path, token: &StoredToken) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&serde_json::to_vec(token)?)
}

/// Reads a token's file; `None` if it does not exist, or something else has its name.
fn read(path: &Path) -> io::Result<Option<StoredToken>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes).ok())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the files of expired tokens; returns how many. Other files are kept.
fn sweep(folder: &Path, now: Timestamp) -> io::Result<u64> {
    let mut num_removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| is_token(name)) else {
            continue;
        };
        let stored = read(&path)?.filter(|stored| stored.access_token == name);
        if stored.is_some_and(|stored| stored.is_over(now)) {
            remove(&path)?;
            num_removed += 1;
        }
    }
    Ok(num_removed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn later(seconds: i64) -> Timestamp {
        Timestamp::from_micros(NOW.micros() + seconds * 1_000_000)
    }

    fn open(folder: &Path, seconds: u64) -> FsTokens {
        let expiry = (seconds > 0).then(|| Duration::from_secs(seconds));
        FsTokens::open(folder, "myapp", expiry).unwrap()
    }

    #[tokio::test]
    async fn a_token_is_a_file_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("data/token");
        let tokens = open(&inner, 0);
        let token = tokens
            .issue(&UserId::new("u1"), Some(NOW), NOW)
            .await
            .unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&inner), mode(&inner.join(&token))), (0o700, 0o600));
        let claims = open(&inner, 0).read(&token, later(9_999)).await.unwrap();
        let claims = claims.unwrap();
        assert_eq!((claims.user.as_str(), claims.as_of), ("u1", Some(NOW)));
        tokens.forget(&token).await.unwrap();
        tokens.forget(&token).await.unwrap();
        assert_eq!(tokens.read(&token, NOW).await.unwrap(), None);
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_token_that_expired_is_refused_and_its_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = open(folder.path(), 60);
        let token = tokens.issue(&UserId::new("u1"), None, NOW).await.unwrap();
        assert!(tokens.read(&token, later(59)).await.unwrap().is_some());
        assert_eq!(tokens.read(&token, later(60)).await.unwrap(), None);
        assert!(!folder.path().join(&token).exists());
    }

    #[tokio::test]
    async fn what_v1_left_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let token = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let json = format!(
            r#"{{"accessToken":"{token}","expiredAt":0,"appName":"myapp","authInfoID":"u1"}}"#
        );
        std::fs::write(folder.path().join(token), json).unwrap();
        let claims = open(folder.path(), 0).read(token, NOW).await.unwrap();
        assert_eq!(claims.unwrap().user.as_str(), "u1");
    }

    #[tokio::test]
    async fn no_text_reaches_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("token");
        let tokens = open(&inner, 0);
        let json = r#"{"accessToken":"../outside","authInfoID":"u1"}"#;
        std::fs::write(folder.path().join("outside"), json).unwrap();
        std::fs::write(inner.join("renamed"), json).unwrap();
        std::fs::write(inner.join("no-json"), "x").unwrap();
        std::fs::create_dir(inner.join("folder")).unwrap();
        let absolute = folder.path().join("outside").display().to_string();
        let texts = [
            "../outside",
            "",
            ".",
            "..",
            "renamed",
            "no-json",
            "folder",
            &absolute,
        ];
        for text in texts {
            assert_eq!(tokens.read(text, NOW).await.unwrap(), None, "{text:?}");
            if text != "renamed" && text != "no-json" && text != "folder" {
                tokens.forget(text).await.unwrap();
            }
        }
        assert!(folder.path().join("outside").exists());
    }

    #[test]
    fn a_sweep_takes_expired_tokens_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for (seconds, name) in [(1, "old"), (60, "young"), (0, "eternal")] {
            let expiry = (seconds > 0).then(|| Duration::from_secs(seconds));
            let token = StoredToken {
                access_token: name.to_owned(),
                ..StoredToken::issue(&UserId::new("u1"), "myapp", None, (NOW, expiry))
            };
            write(&folder.path().join(name), &token).unwrap();
        }
        std::fs::write(folder.path().join("README"), "not a token").unwrap();
        std::fs::write(folder.path().join(".hidden"), "{}").unwrap();
        assert_eq!(sweep(folder.path(), later(30)).unwrap(), 1);
        assert!(!folder.path().join("old").exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
