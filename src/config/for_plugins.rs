//! The configuration as v1 passes it to plugins in the events of a start.

use serde_json::{Value as Json, json};

use super::{ApnsAuth, ApnsSettings, AssetStore, Config, FcmSettings, Keys, Secret, user_audit};

impl Config {
    /// Returns the object under `config`. It contains the keys: plugins are trusted with them.
    ///
    /// Features that this server does not have are present with v1's values for "off", because
    /// plugins look them up without checking.
    pub fn for_plugins(&self, keys: &Keys) -> Json {
        let timeout = self
            .http
            .response_timeout
            .map_or(0, |timeout| timeout.as_secs());
        let secret = self.custom_token_secret.as_ref();
        let custom_token_secret = secret.map(Secret::reveal).unwrap_or_default();
        let mut user_audit = user_audit::policy_for_plugins(&self.app.password_policy);
        user_audit.insert("enabled".to_owned(), self.audit.is_enabled.into());
        user_audit.insert(
            "trail_handler_url".to_owned(),
            self.audit.url.clone().into(),
        );
        let database = self.plugin_database.as_ref().map(Secret::reveal);
        let database = database.unwrap_or_default();
        let s3 = match &self.assets.store {
            AssetStore::S3(settings) => Some(settings),
            AssetStore::Folder { .. } => None,
        };
        json!({
            "http": {"host": self.http.listen.to_string()},
            "app": {
                "name": self.app.name,
                "api_key": keys.api.reveal(),
                "master_key": keys.master.reveal(),
                "access_control": "role",
                "auth_record_keys": self.app.auth_record_keys.alternatives(),
                "dev_mode": self.app.dev_mode,
                "cors_host": self.http.cors_host,
                "slave": self.timers.is_slave,
                "response_timeout": timeout,
            },
            "database": {"implementation": "pq", "option": database},
            "auth": {"custom_token_secret": custom_token_secret},
            "asset_store": {
                "implementation": if s3.is_some() { "s3" } else { "fs" },
                "public": self.assets.is_public,
                "fs": {"url_prefix": self.asset_url_prefix(), "secret": keys.asset_secret.reveal()},
                "s3": {
                    "access_key": s3.map_or("", |s3| &s3.access_key),
                    "secret_key": s3.map_or("", |s3| s3.secret_key.reveal()),
                    "region": s3.map_or("", |s3| &s3.region),
                    "bucket": s3.map_or("", |s3| &s3.bucket),
                    "url_prefix": s3.and_then(|s3| s3.url_prefix.as_deref()).unwrap_or_default(),
                },
                "cloud": {"host": "", "token": "", "public_prefix": "", "private_prefix": ""},
            },
            "apns": apns(self.push.apns.as_ref()),
            "fcm": fcm(self.push.fcm.as_ref()),
            "baidu": {"enable": false, "api_key": "", "secret_key": ""},
            "log": {},
            "zmq": {
                "timeout": self.plugin.zmq_timeout.as_secs(),
                "max_bounce": self.plugin.zmq_max_bounce,
            },
            "user_audit": user_audit,
            "verification": {"required": self.app.verify_required},
        })
    }
}

fn apns(settings: Option<&ApnsSettings>) -> Json {
    let is_production = settings.is_some_and(|it| it.is_production);
    let keepalive = settings.map_or(180, |it| it.keepalive.map_or(0, |pause| pause.as_secs()));
    let (mut cert, mut token) = (("", ""), ("", "", ""));
    match settings.map(|it| &it.auth) {
        Some(ApnsAuth::Certificate { pem, key, .. }) => cert = (pem, key.reveal()),
        Some(ApnsAuth::Token { team, key_id, key }) => token = (team, key_id, key.reveal()),
        None => {}
    }
    let is_token = !token.0.is_empty();
    json!({
        "enable": settings.is_some(),
        "type": if is_token { "token" } else { "cert" },
        "env": if is_production { "production" } else { "sandbox" },
        "keepalive": keepalive,
        "cert_config": {"cert": cert.0, "key": cert.1},
        "token_config": {"team_id": token.0, "key_id": token.1, "key": token.2},
    })
}

fn fcm(settings: Option<&FcmSettings>) -> Json {
    let (kind, key) = match settings {
        Some(settings) => ("service_account", settings.text.reveal()),
        None => ("server_key", ""),
    };
    json!({
        "enable": settings.is_some(), "type": kind,
        "service_account": {"key": key}, "Server": {"key": ""},
    })
}
