//! Signing in with auth data and a password.

use skytrail_schema::auth_keys::AuthData;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{TypeName, UserId};

use super::actor::Accounts;
use super::admission::refuse_disabled;
use super::messages::{LogIn, Session};
use super::session::Login;
use super::sign_up;

impl Accounts {
    /// Signs a user in, as the service says.
    pub(super) async fn log_in_with_password(&self, command: LogIn) -> Result<Session, ApiError> {
        let alternative = self.settings.auth_keys.effective(&command.auth_data);
        let alternative = alternative.ok_or_else(sign_up::invalid_auth_data)?;
        let user = self.find(alternative, &command.auth_data).await?;
        let state = match &user {
            Some(id) => self.load(id).await?.1.map(|(_, state)| state),
            None => None,
        };
        if let Some(state) = &state {
            refuse_disabled(state, self.env.clock.now())?;
        }
        // Without a user the same work is done, so that the time does not tell.
        let hash = state.as_ref().and_then(|state| state.password_hash.clone());
        let password = command.password;
        let is_right = self.hasher.verify(password.clone(), hash.clone()).await?;
        let (Some(id), Some(state)) = (user, state) else {
            return Err(ApiError::new(Code::ResourceNotFound, "user not found"));
        };
        if !is_right {
            let message = "auth_data or password incorrect";
            return Err(ApiError::new(Code::InvalidCredentials, message));
        }
        let context = &command.context;
        self.renew_hash(&id, hash, password, context).await;
        let profile = self.profile(&id, context).await?;
        let session = self.session(&id, &state, profile, context).await?;
        let keys = alternative.iter().cloned().collect();
        let login = Some(Login::Password(keys));
        self.note_seen(&id, context, login).await?;
        Ok(session)
    }

    /// Finds the user whose record has the alternative's values.
    pub(super) async fn find(
        &self,
        alternative: &[String],
        auth_data: &AuthData,
    ) -> Result<Option<UserId>, ApiError> {
        let definition = self.env.definition(&TypeName::user());
        if !definition.is_created {
            return Ok(None);
        }
        self.env.applied.wait_for(self.env.log.head()).await?;
        let pair = |key| Some((String::as_str(key), auth_data.get(key)?));
        let values: Vec<_> = alternative.iter().filter_map(pair).collect();
        let found = self.env.store.find_by_fields(&definition, &values).await?;
        Ok(found.map(|key| UserId::new(key.as_str())))
    }
}
