//! Notices of subscriptions wake devices up.

use serde_json::{Value as Json, json};

use super::certificates::{self, APP};
use super::service::{Reply, Service};
use super::{register, server};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

fn subscribe(client: &Client, device: &str) {
    let query = json!({"record_type": "note"});
    let body = json!({
        "database_id": "_public",
        "device_id": device,
        "subscriptions": [{"id": "notes", "type": "query", "query": query}],
    });
    client.call("subscription:save", body).result();
}

fn with_all(service: &Service) -> TestServer {
    let account = json!({
        "project_id": "p", "client_email": "a@b.example",
        "private_key": certificates::text("account.key"),
        "token_uri": format!("{}/token", service.url()),
    });
    server(&[
        ("APNS_ENABLE", "YES"),
        ("APNS_TYPE", "token"),
        ("APNS_TEAM_ID", "team"),
        ("APNS_KEY_ID", "key"),
        ("APNS_TOKEN_KEY", &certificates::text("team.key")),
        ("APNS_ENDPOINT", &service.url()),
        ("FCM_ENABLE", "YES"),
        ("FCM_SERVICE_ACCOUNT_KEY", &account.to_string()),
        ("FCM_ENDPOINT", &service.url()),
    ])
}

fn service() -> Service {
    let granted = json!({"access_token": "good", "expires_in": 3600});
    Service::start(move |request| match request.path.as_str() {
        "/token" => Reply::json(200, &granted),
        _ => Reply::json(200, &json!({})),
    })
}

fn pushes(service: &Service) -> Vec<(String, Json)> {
    let received = service.received().into_iter();
    let pushed = received.filter(|(request, _)| request.path != "/token");
    pushed
        .map(|(request, _)| (request.path.clone(), request.json()))
        .collect()
}

#[test]
fn a_change_wakes_up_the_devices_that_asked_for_it() {
    let service = service();
    let server = with_all(&service);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/0", json!({}));
    let phone = register(&ada, "ios", "a1", APP);
    let tablet = register(&ada, "android", "b1", "");
    // This device's service is not configured: it hears only over the hub, and delays no other.
    let other = register(&ada, "baidu-android", "c1", "");
    for device in [&other, &phone, &tablet] {
        subscribe(&ada, device);
    }
    ada.save("note/1", json!({}));
    let pushed = eventually("two pushes", || {
        let pushed = pushes(&service);
        (pushed.len() >= 2).then_some(pushed)
    });
    let find = |path: &str| {
        let found = pushed.iter().find(|(known, _)| known == path);
        found.map(|(_, body)| body.clone()).unwrap()
    };
    let to_phone = find("/3/device/a1");
    assert_eq!(to_phone["aps"], json!({"content-available": 1}));
    let notice = &to_phone["_skygear"];
    assert_eq!(notice["subscription-id"], "notes");
    // The name under which v1's iOS SDK looks for it.
    assert_eq!(&to_phone["_ourd"], notice);
    let number = notice["seq-num"].as_u64().unwrap();
    let to_tablet = find("/v1/projects/p/messages:send");
    let data = to_tablet["message"]["android"]["data"]["_skygear"].as_str();
    let notice: Json = serde_json::from_str(data.unwrap()).unwrap();
    assert_eq!(
        notice,
        json!({"seq-num": number, "subscription-id": "notes"})
    );

    ada.save("note/1", json!({"text": "again"}));
    let later = eventually("a push of the next change", || {
        let to_phone = pushes(&service).into_iter();
        let to_phone = to_phone.filter(|(path, _)| path == "/3/device/a1");
        to_phone.map(|(_, body)| body).nth(1)
    });
    assert!(later["_skygear"]["seq-num"].as_u64() > Some(number));
    let silent = service.received().into_iter().map(|(request, _)| request);
    let silent = silent.filter(|request| request.path.starts_with("/3/"));
    for request in silent {
        assert_eq!(request.header("apns-push-type"), Some("background"));
        assert_eq!(request.header("apns-priority"), Some("5"));
    }
}
