//! Signing in with auth data and a password; finding the user whom auth data names.

use serde_json::{Value as Json, json};
use skytrail_schema::auth_keys::AuthData;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{TypeName, UserId};
use skytrail_schema::value::Value;

use super::Accounts;
use super::messages::{LogIn, Session};
use super::session::Login;
use super::sign_up;
use crate::record::unique_value::comparable;

impl Accounts {
    /// Signs a user in.
    ///
    /// # Errors
    /// 108, 110 without such a user, 105 for a wrong password, 127 for a disabled user.
    pub async fn log_in(&self, command: LogIn) -> Result<Session, ApiError> {
        let alternative = self.settings.auth_keys.effective(&command.auth_data);
        let alternative = alternative.ok_or_else(sign_up::invalid_auth_data)?;
        let user = self.find(alternative, &command.auth_data).await?;
        let state = match &user {
            Some(id) => self.load(id).await?.1.map(|(_, state)| state),
            None => None,
        };
        if let Some(state) = &state {
            state.check_enabled(self.env.clock.now())?;
        }
        // The same work is done without a user, so that the time reveals nothing.
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

    /// Finds the user whom auth data names.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find_user(&self, auth_data: &AuthData) -> Result<Option<UserId>, ApiError> {
        match self.settings.auth_keys.effective(auth_data) {
            Some(alternative) => self.find(alternative, auth_data).await,
            None => Ok(None),
        }
    }

    /// Returns a key for the account that auth data name, whether or not that account exists.
    ///
    /// Two spellings have the same key if they find the same user. Only the data that identify the
    /// account count, because the rest may belong to another account.
    pub fn key_of(&self, auth_data: &AuthData) -> Option<String> {
        let keys = self.settings.auth_keys.effective(auth_data)?;
        let definition = self.env.definition(&TypeName::user());
        let parts = keys.iter().filter_map(|key| {
            let value = auth_data.get(key)?;
            Some(json!([key, comparable(&definition, key, value)]))
        });
        Some(Json::from_iter(parts).to_string())
    }

    /// Finds the user whom a single value names, for any kind of auth data such as `username`.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find_named(&self, name: &str) -> Result<Option<UserId>, ApiError> {
        for key in self.settings.auth_keys.single() {
            let value = Value::String(name.to_owned());
            let auth_data = AuthData::from([(key.to_owned(), value)]);
            if let Some(found) = self.find_user(&auth_data).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Finds the user whose record has the values of these keys.
    async fn find(
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
