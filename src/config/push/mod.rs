//! Settings for push, with v1's names where v1 has the service.

use std::time::Duration;

use serde::Deserialize;
use x509_cert::der::asn1::{Ia5StringRef, ObjectIdentifier, Utf8StringRef};
use x509_cert::der::{DecodePem as _, Tagged as _};
use x509_cert::{Certificate, der};

use super::Secret;
use super::source::Reader;
use crate::bom::without_bom;
use crate::push::signer::Signer;
use crate::push::web::{Hosts, VapidKey};

/// The push services.
#[derive(Clone, Debug)]
pub struct Push {
    /// Apple's service. `APNS_ENABLE`, default no.
    pub apns: Option<ApnsSettings>,
    /// Google's service. `FCM_ENABLE`, default no.
    pub fcm: Option<FcmSettings>,
    /// Browsers' services. `WEBPUSH_ENABLE`, default no.
    pub web: Option<WebPushSettings>,
    /// The number of pushes that can wait for one service. `PUSH_QUEUE`, default 10,000.
    pub max_queue: usize,
    /// The number of attempts after which a push is given up. `PUSH_MAX_ATTEMPTS`, default 10.
    pub max_attempts: u32,
}

/// Apple's service.
#[derive(Clone, Debug)]
pub struct ApnsSettings {
    /// How the sender authenticates. `APNS_TYPE`: `cert` (default) or `token`.
    pub auth: ApnsAuth,
    /// Whether apps are from the App Store. `APNS_ENV`: `sandbox` (default) or `production`.
    pub is_production: bool,
    /// The service's address. `APNS_ENDPOINT`, default Apple's.
    pub endpoint: String,
    /// How often an idle connection is probed. `APNS_KEEPALIVE` in seconds, default 180; 0 means
    /// off.
    pub keepalive: Option<Duration>,
}

/// How the sender authenticates to Apple.
#[derive(Clone, Debug)]
pub enum ApnsAuth {
    /// A certificate.
    Certificate {
        /// The certificate. `APNS_CERTIFICATE` (PEM) or `APNS_CERTIFICATE_PATH`.
        pem: String,
        /// Its key. `APNS_PRIVATE_KEY` (PEM) or `APNS_PRIVATE_KEY_PATH`.
        key: Secret,
        /// The app that the certificate is for: the UID of its subject.
        topic: String,
    },
    /// A key of the developer team.
    Token {
        /// `APNS_TEAM_ID`.
        team: String,
        /// `APNS_KEY_ID`.
        key_id: String,
        /// `APNS_TOKEN_KEY` (PEM) or `APNS_TOKEN_KEY_PATH`.
        key: Secret,
    },
}

/// Google's service.
#[derive(Clone, Debug)]
pub struct FcmSettings {
    /// The account. `FCM_SERVICE_ACCOUNT_KEY` (JSON) or `FCM_SERVICE_ACCOUNT_KEY_PATH`.
    pub account: ServiceAccount,
    /// The account as JSON, as Google issued it.
    pub text: Secret,
    /// The service's address. `FCM_ENDPOINT`, default Google's.
    pub endpoint: String,
}

/// A Google service account.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// The project of the app.
    pub project: String,
    /// The account's email address.
    pub email: String,
    /// Its key (PEM).
    pub private_key: Secret,
    /// The key's id.
    pub key_id: Option<String>,
    /// The address that issues access tokens.
    pub token_url: String,
}

/// Browsers' services.
#[derive(Clone, Debug)]
pub struct WebPushSettings {
    /// The server's key. `WEBPUSH_PRIVATE_KEY`; created and stored if absent.
    pub key: Option<Secret>,
    /// The contact for a service when something is wrong. `WEBPUSH_SUBJECT`.
    pub subject: String,
    /// The services to which pushes are sent. `WEBPUSH_HOSTS`, default those of today's browsers.
    pub hosts: Hosts,
}

/// Reads the settings for push.
pub(super) fn read(reader: &mut Reader<'_>) -> Push {
    let apns = read_apns(reader);
    let fcm = read_fcm(reader);
    if reader.boolean("BAIDU_ENABLE", false) {
        let expected = "NO: Baidu's push service is not supported; use FCM, or Web Push";
        reader.refuse("BAIDU_ENABLE", "YES", expected);
    }
    Push {
        apns,
        fcm,
        web: read_web(reader),
        max_queue: reader.number("PUSH_QUEUE", 10_000, 1..=1_000_000),
        max_attempts: reader.number("PUSH_MAX_ATTEMPTS", 10, 1..=1000),
    }
}

fn read_apns(reader: &mut Reader<'_>) -> Option<ApnsSettings> {
    let is_enabled = reader.boolean("APNS_ENABLE", false);
    let kind = reader.text("APNS_TYPE", "cert");
    let environment = reader.text("APNS_ENV", "sandbox");
    let keepalive = reader.text("APNS_KEEPALIVE", "180");
    let is_production = environment == "production";
    let host = if is_production {
        "https://api.push.apple.com"
    } else {
        "https://api.sandbox.push.apple.com"
    };
    let endpoint = reader.text("APNS_ENDPOINT", host);
    let pem = Given::read(reader, "APNS_CERTIFICATE");
    let private_key = Given::read(reader, "APNS_PRIVATE_KEY");
    let team = reader.text("APNS_TEAM_ID", "");
    let key_id = reader.text("APNS_KEY_ID", "");
    let token_key = Given::read(reader, "APNS_TOKEN_KEY");
    if !is_enabled {
        return None;
    }
    if !["sandbox", "production"].contains(&environment.as_str()) {
        reader.refuse("APNS_ENV", &environment, "sandbox or production");
    }
    check_url(reader, "APNS_ENDPOINT", &endpoint);
    let keepalive = keepalive_of(reader, &keepalive);
    let auth = match kind.as_str() {
        "cert" => certificate(reader, &pem, &private_key),
        "token" => team_key(reader, (team, key_id), &token_key),
        other => {
            reader.refuse("APNS_TYPE", other, "cert or token");
            None
        }
    };
    Some(ApnsSettings {
        auth: auth?,
        is_production,
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        keepalive,
    })
}

fn keepalive_of(reader: &mut Reader<'_>, text: &str) -> Option<Duration> {
    match text.parse() {
        Ok(seconds) if seconds <= 86_400 => Some(Duration::from_secs(seconds)),
        _ => {
            let expected = "a whole number of seconds from 0 to 86400";
            reader.refuse("APNS_KEEPALIVE", text, expected);
            None
        }
    }
    .filter(|pause| !pause.is_zero())
}

fn certificate(reader: &mut Reader<'_>, pem: &Given, key: &Given) -> Option<ApnsAuth> {
    let because = "because APNS_TYPE is cert";
    let (pem, key) = (pem.needed(reader, because), key.needed(reader, because));
    let (pem, key) = (pem?, key?);
    let read = subject_uid(pem.reveal());
    let topic = match read {
        Ok(Some(topic)) => Some(topic),
        Ok(None) => {
            let expected = "a certificate for an app: its subject has no UID";
            reader.refuse("APNS_CERTIFICATE", "***", expected);
            None
        }
        Err(_) => {
            reader.refuse("APNS_CERTIFICATE", "***", "a certificate in PEM");
            None
        }
    };
    if reqwest::Identity::from_pem(format!("{}\n{}", pem.reveal(), key.reveal()).as_bytes())
        .is_err()
    {
        reader.refuse("APNS_PRIVATE_KEY", "***", "a private key in PEM");
    }
    Some(ApnsAuth::Certificate {
        pem: pem.reveal().to_owned(),
        key,
        topic: topic?,
    })
}

fn team_key(
    reader: &mut Reader<'_>,
    (team, key_id): (String, String),
    key: &Given,
) -> Option<ApnsAuth> {
    let because = "because APNS_TYPE is token";
    for (name, value) in [("APNS_TEAM_ID", &team), ("APNS_KEY_ID", &key_id)] {
        if value.is_empty() {
            reader.refuse(name, "", &format!("a value, {because}"));
        }
    }
    let key = key.needed(reader, because)?;
    if let Err(why) = Signer::elliptic(key.reveal(), None) {
        let expected = format!("a private key: this is {why}");
        reader.refuse("APNS_TOKEN_KEY", "***", &expected);
    }
    Some(ApnsAuth::Token { team, key_id, key })
}

/// Returns the UID in a certificate's subject, which names the app that it is for.
fn subject_uid(pem: &str) -> Result<Option<String>, der::Error> {
    const UID: ObjectIdentifier = ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1");
    // Other certificates may follow: those of its issuers.
    let first = pem.find("-----END CERTIFICATE-----");
    let first = first.and_then(|end| pem.get(..end + "-----END CERTIFICATE-----".len()));
    let begin = pem.find("-----BEGIN CERTIFICATE-----").unwrap_or_default();
    let certificate = Certificate::from_pem(first.and_then(|it| it.get(begin..)).unwrap_or(pem))?;
    let names = certificate.tbs_certificate.subject.0;
    let mut named = names.iter().flat_map(|name| name.0.iter());
    let Some(uid) = named.find(|it| it.oid == UID) else {
        return Ok(None);
    };
    let text = match uid.value.tag() {
        der::Tag::Ia5String => uid.value.decode_as::<Ia5StringRef<'_>>()?.to_string(),
        _ => uid.value.decode_as::<Utf8StringRef<'_>>()?.to_string(),
    };
    Ok(Some(text))
}

fn read_fcm(reader: &mut Reader<'_>) -> Option<FcmSettings> {
    let is_enabled = reader.boolean("FCM_ENABLE", false);
    let kind = reader.text("FCM_TYPE", "service_account");
    let server_key = reader.secret("FCM_SERVER_KEY");
    let account = Given::read(reader, "FCM_SERVICE_ACCOUNT_KEY");
    let endpoint = reader.text("FCM_ENDPOINT", "https://fcm.googleapis.com");
    let is_gcm = reader.boolean("GCM_ENABLE", false);
    reader.secret("GCM_APIKEY");
    let instead = "Google no longer accepts server keys; use FCM_ENABLE with \
                   FCM_TYPE=service_account and FCM_SERVICE_ACCOUNT_KEY";
    if !is_enabled {
        if is_gcm {
            reader.refuse("GCM_ENABLE", "YES", &format!("NO: {instead}"));
        }
        return None;
    }
    match kind.as_str() {
        "service_account" => {}
        "server_key" => reader.refuse("FCM_TYPE", &kind, &format!("service_account: {instead}")),
        other => reader.refuse("FCM_TYPE", other, "service_account"),
    }
    check_url(reader, "FCM_ENDPOINT", &endpoint);
    if kind == "service_account" && server_key.is_some() && !account.is_given() {
        reader.refuse("FCM_SERVER_KEY", "***", &format!("nothing: {instead}"));
        return None;
    }
    if kind != "service_account" {
        return None;
    }
    let text = account.needed(reader, "because FCM_ENABLE is on")?;
    let account = match service_account(text.reveal()) {
        Ok(account) => account,
        Err(why) => {
            let expected = format!("the JSON of a service account: {why}");
            reader.refuse("FCM_SERVICE_ACCOUNT_KEY", "***", &expected);
            return None;
        }
    };
    Some(FcmSettings {
        account,
        text,
        endpoint: endpoint.trim_end_matches('/').to_owned(),
    })
}

fn service_account(text: &str) -> Result<ServiceAccount, String> {
    #[derive(Deserialize)]
    struct File {
        project_id: String,
        client_email: String,
        private_key: String,
        private_key_id: Option<String>,
        token_uri: String,
    }
    let file: File = serde_json::from_str(text).map_err(|error| {
        // The library's message could reveal the content.
        format!("line {} is wrong, or a member is missing", error.line())
    })?;
    if !is_url(&file.token_uri) {
        return Err("its token_uri is not an address".to_owned());
    }
    Signer::rsa(&file.private_key, None).map_err(|why| format!("its private_key is {why}"))?;
    Ok(ServiceAccount {
        project: file.project_id,
        email: file.client_email,
        private_key: Secret::new(file.private_key),
        key_id: file.private_key_id,
        token_url: file.token_uri,
    })
}

fn read_web(reader: &mut Reader<'_>) -> Option<WebPushSettings> {
    let is_enabled = reader.boolean("WEBPUSH_ENABLE", false);
    let key = reader.secret("WEBPUSH_PRIVATE_KEY");
    let subject = reader.text("WEBPUSH_SUBJECT", "");
    let hosts = reader.text("WEBPUSH_HOSTS", Hosts::KNOWN);
    if !is_enabled {
        return None;
    }
    if let Some(Err(why)) = key.as_ref().map(|key| VapidKey::parse(key.reveal())) {
        let expected = format!("a private key: this is {why}");
        reader.refuse("WEBPUSH_PRIVATE_KEY", "***", &expected);
    }
    if !subject.starts_with("mailto:") && !subject.starts_with("https://") {
        let expected = "an address where push services can reach you, as mailto:… or https://…";
        reader.refuse("WEBPUSH_SUBJECT", &subject, expected);
    }
    let hosts = hosts.split(',').map(str::trim);
    let hosts = hosts.filter(|host| !host.is_empty()).map(str::to_owned);
    Some(WebPushSettings {
        key,
        subject,
        hosts: Hosts::new(hosts.collect()),
    })
}

fn check_url(reader: &mut Reader<'_>, name: &str, url: &str) {
    if !is_url(url) {
        reader.refuse(name, url, "an address that begins with https://");
    }
}

fn is_url(text: &str) -> bool {
    let url = reqwest::Url::parse(text);
    url.is_ok_and(|url| url.scheme() == "https" && url.has_host())
}

/// A text that is configured directly, or as the path of a file.
struct Given {
    name: &'static str,
    text: Option<Secret>,
    path: String,
}

impl Given {
    fn read(reader: &mut Reader<'_>, name: &'static str) -> Self {
        Self {
            name,
            text: reader.secret(name),
            path: reader.text(&format!("{name}_PATH"), ""),
        }
    }

    fn is_given(&self) -> bool {
        self.text.is_some() || !self.path.is_empty()
    }

    /// Returns the text; records a mistake if there is none.
    fn needed(&self, reader: &mut Reader<'_>, because: &str) -> Option<Secret> {
        if let Some(text) = &self.text {
            return Some(text.clone());
        }
        let (name, path) = (self.name, &self.path);
        if path.is_empty() {
            reader.refuse(
                name,
                "",
                &format!("a value, here or in {name}_PATH, {because}"),
            );
            return None;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => Some(Secret::new(without_bom(&text))),
            Err(error) => {
                let expected = format!("a file that can be read ({error})");
                reader.refuse(&format!("{name}_PATH"), path, &expected);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
