//! Registering files, and noting that their bytes have arrived.

use serde_json::Value as Json;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{AssetState, AssetUpload, EventBody, Stream};
use skytrail_schema::id::AssetName;
use tokio::sync::Mutex;

use crate::context::RequestContext;
use crate::record::attempt::{Outcome, commit, retry_on_conflict};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;

/// What is known of files, and appending to it.
pub struct Assets {
    env: RecordEnv,
    turn: Mutex<()>,
}

impl Assets {
    /// Builds the register.
    pub fn new(env: RecordEnv) -> Self {
        Self {
            env,
            turn: Mutex::new(()),
        }
    }

    /// Finds what is known of a file.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find(&self, name: &AssetName) -> Result<Option<AssetState>, ApiError> {
        let mut known = self.env.assets.load(std::slice::from_ref(name)).await?;
        Ok(known.remove(name).map(|(_, state)| state))
    }

    /// Checks that a new name can have a file: none of its folders may be one. Nothing can be below
    /// it, because it has an id of its own.
    ///
    /// # Errors
    /// 108 if one of its folders is a file; the store failed.
    pub async fn check_place(&self, name: &AssetName) -> Result<(), ApiError> {
        let folders: Vec<AssetName> = name.folders().collect();
        let known = self.env.assets.load(&folders).await?;
        match folders
            .into_iter()
            .find(|folder| known.contains_key(folder))
        {
            None => Ok(()),
            Some(file) => {
                let message = format!("{file} is a file and cannot be a folder");
                Err(ApiError::invalid_argument(message, &["filename"]))
            }
        }
    }

    /// Refuses a caller whose user was erased since the request began.
    ///
    /// # Errors
    /// Those of [`RecordEnv::check_writer`].
    pub async fn check_caller(&self, context: &RequestContext) -> Result<(), ApiError> {
        self.env.check_writer(&context.caller).await.map(drop)
    }

    /// Whether a file was erased: its name is never used again.
    pub fn is_erased(&self, name: &AssetName) -> bool {
        self.env.assets.erasures.has_file(name)
    }

    /// Sets the media types and addresses of the files in a wire value on its way out.
    ///
    /// # Errors
    /// The store failed.
    pub async fn complete(&self, json: &mut Json) -> Result<(), ApiError> {
        self.env.assets.complete_json(json).await
    }

    /// Registers a new file whose bytes have not arrived yet. Returns when that is durable.
    ///
    /// # Errors
    /// Overload.
    pub async fn register(
        &self,
        name: &AssetName,
        state: AssetState,
        context: &RequestContext,
    ) -> Result<(), ApiError> {
        self.append(name, state, None, context).await
    }

    /// Notes the size and the hash of the bytes that were stored for a file, which is registered as
    /// `state` if it is not known. Returns when that is durable.
    ///
    /// # Errors
    /// Overload; those of [`RecordEnv::check_writer`].
    pub async fn note_upload(
        &self,
        name: &AssetName,
        state: AssetState,
        blake3: String,
        context: &RequestContext,
    ) -> Result<(), ApiError> {
        let upload = AssetUpload {
            size: state.size,
            blake3: Some(blake3),
        };
        self.append(name, state, Some(upload), context).await
    }

    async fn append(
        &self,
        name: &AssetName,
        state: AssetState,
        upload: Option<AssetUpload>,
        context: &RequestContext,
    ) -> Result<(), ApiError> {
        let env = &self.env;
        retry_on_conflict(Some(&self.turn), |_| async {
            if self.is_erased(name) {
                let message = format!("file {name} was erased");
                return Err(ApiError::new(Code::ResourceNotFound, message));
            }
            let read_position = env.model.position();
            let caller = env.check_writer(&context.caller).await?;
            let known = env.assets.load(std::slice::from_ref(name)).await?;
            let mut version = known.get(name).map_or(0, |(version, _)| *version);
            let stream = || Stream::Asset(name.clone());
            let mut plan = Plan::default();
            // The erasure of a user looks for the user's files after the user is gone.
            plan.reads.extend(caller);
            if version == 0 {
                version += 1;
                let body = EventBody::AssetRegistered(state.clone());
                plan.push(stream(), version, body);
            }
            if let Some(upload) = upload.clone() {
                plan.push(stream(), version + 1, EventBody::AssetUploaded(upload));
            }
            Ok(
                match commit(&env.log, plan, read_position, context).await? {
                    Outcome::Done(_) => Outcome::Done(()),
                    Outcome::Conflict => Outcome::Conflict,
                },
            )
        })
        .await
    }
}
