//! Signing in with auth data and a password.

use std::collections::BTreeMap;

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{TypeName, UserId};
use skytrail_schema::value::Value;

use super::actor::Accounts;
use super::disable::refuse_disabled;
use super::messages::{LogIn, Session};
use super::sign_up;

impl Accounts {
    /// Signs a user in, as the service says.
    pub(super) async fn log_in_with_password(&self, command: LogIn) -> Result<Session, ApiError> {
        let alternative = sign_up::effective_alternative(&self.auth_keys, &command.auth_data)
            .ok_or_else(|| ApiError::invalid_argument("invalid auth data", &["auth_data"]))?;
        let user = self.find(&alternative, &command.auth_data).await?;
        let state = match &user {
            Some(id) => self.load(id).await?.1.map(|(_, state)| state),
            None => None,
        };
        if let Some(state) = &state {
            refuse_disabled(state, self.env.clock.now())?;
        }
        let hash = state.as_ref().and_then(|state| state.password_hash.clone());
        let is_right = self.hasher.verify(command.password.clone(), hash).await?;
        let (Some(id), Some(state)) = (user, state) else {
            return Err(ApiError::new(Code::ResourceNotFound, "user not found"));
        };
        if !is_right {
            let message = "auth_data or password incorrect";
            return Err(ApiError::new(Code::InvalidCredentials, message));
        }
        let profile = self.profile(&id, &command.context).await?;
        let session = self.session(&id, &state, profile, &command.context).await?;
        self.note_seen(&id, &command.context, true).await?;
        Ok(session)
    }

    /// Finds the user whose record has the alternative's values.
    pub(super) async fn find(
        &self,
        alternative: &[String],
        auth_data: &BTreeMap<String, Value>,
    ) -> Result<Option<UserId>, ApiError> {
        let definition = self.env.definition(&TypeName::user());
        if !definition.is_created {
            return Ok(None);
        }
        self.env.applied.wait_for(self.env.log.head()).await?;
        let values = alternative.iter().filter_map(|key| {
            let value = auth_data.get(key);
            value.map(|value| (key.as_str(), value))
        });
        let values: Vec<_> = values.collect();
        let found = self.env.store.find_by_fields(&definition, &values).await?;
        Ok(found.map(|key| UserId::new(key.as_str())))
    }
}
