use crate::config::{Config, Mistake, Origin, Sources};

fn read(values: &[(&str, &str)]) -> Result<Config, Vec<Mistake>> {
    let values = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::read(&Sources::default().with(Origin::Environment, values)).map(|(config, _)| config)
}

fn mistakes(values: &[(&str, &str)]) -> Vec<(String, String)> {
    let mistakes = read(values).unwrap_err().into_iter();
    mistakes.map(|it| (it.name, it.fault)).collect()
}

fn names(mistakes: &[(String, String)]) -> Vec<&str> {
    mistakes.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn nothing_is_on_by_default_and_what_is_off_is_not_looked_at() {
    let config = read(&[("APNS_TYPE", "carrier"), ("FCM_TYPE", "server_key")]).unwrap();
    let push = config.push;
    assert!(push.apns.is_none() && push.fcm.is_none() && push.web.is_none());
}

#[test]
fn all_mistakes_of_all_services_are_reported_at_once() {
    let mistakes = mistakes(&[
        ("APNS_ENABLE", "YES"),
        ("APNS_TYPE", "token"),
        ("APNS_ENV", "moon"),
        ("APNS_KEEPALIVE", "long"),
        ("APNS_TOKEN_KEY_PATH", "/nowhere"),
        ("APNS_ENDPOINT", "http://127.0.0.1:1"),
        ("FCM_ENABLE", "YES"),
        ("FCM_SERVICE_ACCOUNT_KEY", "{\"private_key\": \"hush\"}"),
        ("WEBPUSH_ENABLE", "YES"),
        ("WEBPUSH_PRIVATE_KEY", "hush"),
        ("BAIDU_ENABLE", "YES"),
    ]);
    let expected = [
        "APNS_ENV",
        "APNS_ENDPOINT",
        "APNS_KEEPALIVE",
        "APNS_TEAM_ID",
        "APNS_KEY_ID",
        "APNS_TOKEN_KEY_PATH",
        "FCM_SERVICE_ACCOUNT_KEY",
        "BAIDU_ENABLE",
        "WEBPUSH_PRIVATE_KEY",
        "WEBPUSH_SUBJECT",
    ];
    assert_eq!(names(&mistakes), expected);
    assert!(!format!("{mistakes:?}").contains("hush"));
}

#[test]
fn what_google_and_baidu_ended_is_refused_with_what_to_use_instead() {
    for values in [
        &[("FCM_ENABLE", "YES"), ("FCM_TYPE", "server_key")][..],
        &[("FCM_ENABLE", "YES"), ("FCM_SERVER_KEY", "key")],
        &[("GCM_ENABLE", "YES"), ("GCM_APIKEY", "key")],
    ] {
        let mistakes = mistakes(values);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(
            mistakes[0].1.contains("FCM_SERVICE_ACCOUNT_KEY"),
            "{mistakes:?}"
        );
    }
    let baidu = mistakes(&[("BAIDU_ENABLE", "YES")]);
    assert!(baidu[0].1.contains("not supported"), "{baidu:?}");
}

#[test]
fn a_certificate_must_be_one() {
    let values = [
        ("APNS_ENABLE", "YES"),
        ("APNS_CERTIFICATE", "nonsense"),
        ("APNS_PRIVATE_KEY", "nonsense"),
    ];
    assert_eq!(
        names(&mistakes(&values)),
        ["APNS_CERTIFICATE", "APNS_PRIVATE_KEY"]
    );
    let missing = mistakes(&[("APNS_ENABLE", "YES")]);
    assert_eq!(names(&missing), ["APNS_CERTIFICATE", "APNS_PRIVATE_KEY"]);
}

#[test]
fn a_key_of_the_servers_own_is_enough_for_the_web() {
    let values = [
        ("WEBPUSH_ENABLE", "YES"),
        ("WEBPUSH_SUBJECT", "mailto:a@b.example"),
    ];
    let web = read(&values).unwrap().push.web.unwrap();
    assert!(web.key.is_none());
}
