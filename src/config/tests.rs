//! Reading settings: defaults, precedence, mistakes.

use super::*;
use crate::plugin::zmq::Endpoint;

fn read(values: &[(&str, &str)]) -> Result<Config, Vec<Mistake>> {
    let values = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::read(&Sources::default().with(Origin::Environment, values)).map(|(config, _)| config)
}

#[test]
fn nothing_set_gives_the_defaults() {
    let config = read(&[]).unwrap();
    assert_eq!(config.http.listen.port(), 3000);
    assert_eq!(config.app.name, "myapp");
    assert!(config.app.api_key.is_none(), "a key is made, never assumed");
    assert_eq!(config.app.auth_record_keys.to_string(), "username,email");
}

#[test]
fn all_mistakes_are_reported_at_once_and_secrets_are_not_shown() {
    let mistakes = read(&[
        ("HOST", "nowhere"),
        ("APP_NAME", "my app"),
        ("RESPONSE_TIMEOUT", "soon"),
        ("DEV_MODE", "perhaps"),
        ("API_KEY", "hush"),
        ("MASTER_KEY", "hush"),
        ("TOKEN_STORE", "memory"),
        ("USER_AUDIT_TRAIL_HANDLER_URL", "https://example.com"),
    ])
    .unwrap_err();
    let names: Vec<_> = mistakes
        .iter()
        .map(|mistake| mistake.name.as_str())
        .collect();
    let expected = [
        "RESPONSE_TIMEOUT",
        "HOST",
        "APP_NAME",
        "MASTER_KEY",
        "DEV_MODE",
        "TOKEN_STORE",
        "USER_AUDIT_TRAIL_HANDLER_URL",
    ];
    assert_eq!(names.len(), expected.len(), "{names:?}");
    assert!(
        expected.iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    assert!(!format!("{mistakes:?}").contains("hush"));
}

#[test]
fn secrets_may_be_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "hush\n").unwrap();
    let path = path.to_str().unwrap();
    let config = read(&[("MASTER_KEY_FILE", path), ("API_KEY", "")]).unwrap();
    assert_eq!(config.app.master_key.unwrap().reveal(), "hush");
    let both = read(&[("MASTER_KEY_FILE", path), ("MASTER_KEY", "own")]).unwrap();
    assert_eq!(both.app.master_key.unwrap().reveal(), "own");
    let mistakes = read(&[("DATABASE_URL_FILE", "/nowhere")]).unwrap_err();
    assert_eq!(mistakes.first().unwrap().name, "DATABASE_URL_FILE");
}

/// Editors put it in front of a file in UTF-8. With it, the name of the first setting is unknown,
/// and unknown names in `.env` are tolerated.
#[test]
fn a_byte_order_mark_belongs_to_no_setting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let path = path.to_str().unwrap();
    let with_file = |text: &str| {
        std::fs::write(path, text).unwrap();
        read(&[("MASTER_KEY_FILE", path)])
    };
    let config = with_file("\u{feff}hush\r\n").unwrap();
    assert_eq!(config.app.master_key.unwrap().reveal(), "hush");
    let mistakes = with_file("\u{feff}\n").unwrap_err();
    assert!(mistakes[0].fault.contains("empty"), "{mistakes:?}");
    let text = "\u{feff}DEV_MODE=NO\r\nAPP_NAME=other\r\n";
    let (config, _) = Config::read(&Sources::default().with_dot_env(text)).unwrap();
    assert!(!config.app.dev_mode && config.app.name == "other");
    let sources = Sources::default().with_toml("skytrail.toml", "\u{feff}dev_mode = false\n");
    assert!(!Config::read(&sources.unwrap()).unwrap().0.app.dev_mode);
}

#[test]
fn keys_are_what_a_header_holds() {
    for key in [
        "schlüssel",
        " key",
        "key ",
        "ke\ty",
        "ke\ny",
        "k\u{7f}",
        "\u{feff}",
    ] {
        let wrong = ["API_KEY", "MASTER_KEY", "METRICS_KEY"];
        for name in wrong {
            let mistakes = read(&[(name, key), ("APP_NAME", "my app")]).unwrap_err();
            let names = mistakes.iter().map(|mistake| mistake.name.as_str());
            let names: BTreeSet<&str> = names.collect();
            assert_eq!(names, BTreeSet::from(["APP_NAME", name]), "{key:?}");
            let said = format!("{mistakes:?}");
            assert!(said.contains("a header can hold"), "{said}");
            assert!(!said.contains(key) || key.trim() == "key", "{said}");
        }
    }
    assert!(read(&[("MASTER_KEY", "a key~!"), ("API_KEY", "k")]).is_ok());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "schlüssel\n").unwrap();
    let mistakes = read(&[("METRICS_KEY_FILE", path.to_str().unwrap())]).unwrap_err();
    let told = mistakes.first().unwrap().to_string();
    assert!(
        told.starts_with("METRICS_KEY = \"***\" (from environment)"),
        "{told}"
    );
}

#[test]
fn a_secret_is_that_of_the_later_origin_be_it_in_a_file_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "filed").unwrap();
    let path = path.to_str().unwrap();
    let origins = [
        Origin::File,
        Origin::DotEnv,
        Origin::Environment,
        Origin::Flag,
    ];
    for plain in origins {
        for filed in origins {
            let pair = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
            let sources = Sources::default()
                .with(plain, pair("MASTER_KEY", "plain"))
                .with(filed, pair("MASTER_KEY_FILE", path));
            let (config, settings) = Config::read(&sources).unwrap();
            let found = config.app.master_key.unwrap();
            let setting = settings.iter().find(|it| it.name == "MASTER_KEY").unwrap();
            let expected = if filed > plain { "filed" } else { "plain" };
            assert_eq!(found.reveal(), expected, "{plain} {filed}");
            assert_eq!(setting.origin, plain.max(filed));
        }
    }
    assert!(!Secret::new("").matches(""), "no secret, no match");
}

#[test]
fn later_origins_win_and_empty_values_count_as_unset() {
    let sources = Sources::default()
        .with(
            Origin::Environment,
            [("APP_NAME".to_owned(), "environment".to_owned())],
        )
        .with_toml("skytrail.toml", "app_name = \"file\"\nport = 4000")
        .unwrap()
        .with_dot_env("# a comment\nAPP_NAME='dotenv'\nCORS_HOST=\"https://a.example\"")
        .with(Origin::Flag, [("APP_NAME".to_owned(), String::new())]);
    let (config, settings) = Config::read(&sources).unwrap();
    let origin = |name| {
        settings
            .iter()
            .find(|setting| setting.name == name)
            .map(|it| it.origin)
    };
    assert_eq!(origin("APP_NAME"), Some(Origin::Environment));
    assert_eq!(origin("LOG_LEVEL"), Some(Origin::Default));
    assert_eq!(config.app.name, "environment");
    assert_eq!(config.http.listen.port(), 4000);
    assert_eq!(config.http.cors_host, "https://a.example");
    assert!(read(&[("CORS_HOST", "https://a.example/")]).is_err());
}

#[test]
fn a_password_policy_is_read_and_handed_on() {
    let config = read(&[
        ("USER_AUDIT_PW_MIN_LENGTH", "8"),
        ("USER_AUDIT_PW_DIGIT_REQUIRED", "YES"),
        ("USER_AUDIT_PW_EXCLUDED_KEYWORDS", " admin , ,secret"),
        ("USER_AUDIT_PW_HISTORY_SIZE", "-1"),
        ("VERIFY_REQUIRED", "YES"),
        ("AUTH_RECORD_KEYS", "username, (phone,email)"),
    ]);
    let config = config.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let with_data = Config {
        data_dir: folder.path().join("data"),
        ..config
    };
    let keys = Keys::load_or_make(&with_data).unwrap();
    let settings = with_data.for_plugins(&keys);
    let audit = &settings["user_audit"];
    assert_eq!(
        (&audit["pw_min_length"], &audit["pw_history_size"]),
        (&8.into(), &0.into())
    );
    assert_eq!(
        audit["pw_excluded_keywords"],
        serde_json::json!(["admin", "secret"])
    );
    assert_eq!(audit["pw_excluded_fields"], serde_json::Value::Null);
    assert_eq!(audit["pw_digit_required"], true);
    assert_eq!(settings["verification"]["required"], true);
    let keys = serde_json::json!([["username"], ["email", "phone"]]);
    assert_eq!(settings["app"]["auth_record_keys"], keys);
    let mistakes = read(&[
        ("USER_AUDIT_PW_MIN_GUESSABLE_LEVEL", "6"),
        ("USER_AUDIT_PW_EXPIRY_DAYS", "soon"),
        ("AUTH_RECORD_KEYS", "username,(email"),
    ]);
    assert_eq!(mistakes.unwrap_err().len(), 3);
}

#[test]
fn keys_are_made_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_string_lossy().into_owned();
    let config = read(&[("DATA_DIR", &data)]).unwrap();
    let first = Keys::load_or_make(&config).unwrap();
    let second = Keys::load_or_make(&config).unwrap();
    assert_eq!(first.master_origin, KeyOrigin::Made);
    assert_eq!(second.master_origin, KeyOrigin::Kept);
    assert!(first.api.matches(second.api.reveal()) && first.master.matches(second.master.reveal()));
    assert!(!first.api.matches(first.master.reveal()));
    assert_eq!(format!("{first:?}").matches("***").count(), 4);
}

#[test]
fn the_example_file_holds_every_setting_with_its_default() {
    let text = include_str!("../../skytrail.example.toml");
    let is_setting = |line: &&str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ")
            && name
                .chars()
                .all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'))
    };
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(is_setting)
        .collect();
    let example = Sources::default()
        .with_toml("skytrail.toml", &lines.join("\n"))
        .unwrap();
    let (_, defaults) = Config::read(&Sources::default()).unwrap();
    for Setting { name, value, .. } in &defaults {
        let line = lines
            .iter()
            .find(|line| line.starts_with(&format!("{} = ", name.to_lowercase())));
        assert!(line.is_some(), "{name} is missing");
        let written = example.get(name).map_or("", |(_, value)| value);
        let expected = match value.as_str() {
            "YES" => "true",
            "NO" => "false",
            // One per core, and the machine's time zone: they differ between machines.
            _ if name == "HTTP_WORKERS" || name == "TIMER_ZONE" => continue,
            value => value,
        };
        assert_eq!(written, expected, "{name}");
    }
    assert_eq!(lines.len(), defaults.len(), "{lines:?}");
}

#[test]
fn tokens_are_kept_where_the_settings_say() {
    let place = |values: &[(&str, &str)]| read(values).map(|config| config.tokens.place);
    assert_eq!(place(&[]).unwrap(), TokenPlace::Signed);
    let folder = |path: &str| TokenPlace::Folder(PathBuf::from(path));
    let fs = ("TOKEN_STORE", "fs");
    assert_eq!(place(&[fs]).unwrap(), folder("data/token"));
    assert_eq!(
        place(&[fs, ("DATA_DIR", "/d")]).unwrap(),
        folder("/d/token")
    );
    assert_eq!(
        place(&[fs, ("TOKEN_STORE_PATH", "/t")]).unwrap(),
        folder("/t")
    );
    let redis = ("TOKEN_STORE", "redis");
    let url = "redis://:hush@127.0.0.1:6379/1";
    let found = place(&[
        redis,
        ("TOKEN_STORE_PATH", url),
        ("TOKEN_STORE_PREFIX", "p"),
    ]);
    let expected = TokenPlace::Redis {
        url: Secret::new(url),
        prefix: "p".to_owned(),
    };
    assert_eq!(found.unwrap(), expected);
    for url in [
        "",
        "data/token",
        "http://127.0.0.1",
        "rediss://:hush@127.0.0.1",
    ] {
        let mistakes = place(&[redis, ("TOKEN_STORE_PATH", url)]).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{url}");
        assert!(!format!("{mistakes:?}").contains("hush"));
    }
}

#[test]
fn passwords_in_addresses_are_not_shown() {
    let values = [("TOKEN_STORE_PATH", "redis://user:hu@sh@127.0.0.1:6379")];
    let values = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let sources = Sources::default().with(Origin::Environment, values);
    let (_, settings) = Config::read(&sources).unwrap();
    let shown = settings.iter().find(|it| it.name == "TOKEN_STORE_PATH");
    assert_eq!(shown.unwrap().value, "redis://***@127.0.0.1:6379");
}

#[test]
fn plugins_are_told_apart_by_their_transports() {
    let config = read(&[
        ("PLUGINS", "A,B,C,D"),
        ("B_TRANSPORT", "http"),
        ("B_PATH", "http://127.0.0.1:8000/x"),
        ("B_TIMEOUT", "5"),
        ("C_TRANSPORT", "exec"),
        ("C_ARGS", "plugin.py,--verbose"),
        ("C_WINDOW", "2"),
        ("D_TRANSPORT", "zmq"),
        ("D_PATH", "d"),
        ("D_ARGS", "tcp://*:5555"),
        ("ZMQ_TIMEOUT", "7"),
    ]);
    let plugins = config.unwrap().plugins;
    let transports: Vec<_> = plugins.iter().map(|it| it.transport.clone()).collect();
    let expected = [
        PluginTransport::WebSocket,
        PluginTransport::Http {
            url: "http://127.0.0.1:8000/x".to_owned(),
            window: 1024,
        },
        PluginTransport::Exec {
            program: "py-skygear".to_owned(),
            args: vec!["plugin.py".to_owned(), "--verbose".to_owned()],
            window: 2,
        },
        PluginTransport::Zmq {
            name: "d".to_owned(),
            bind: Endpoint::parse("tcp://*:5555").unwrap(),
        },
    ];
    assert_eq!(transports, expected);
    let timeouts: Vec<_> = plugins.iter().map(|it| it.timeout.as_secs()).collect();
    assert_eq!(timeouts, [30, 5, 30, 7]);
}

#[test]
fn a_plugin_without_any_time_is_refused() {
    for (setting, transport) in [("A_TIMEOUT", "http"), ("a_TIMEOUT", "exec")] {
        let mistakes = read(&[
            ("PLUGINS", "a"),
            ("A_TRANSPORT", transport),
            ("A_PATH", "http://127.0.0.1:8000"),
            (setting, "0"),
        ])
        .unwrap_err();
        let [mistake] = mistakes.as_slice() else {
            panic!("{mistakes:?}");
        };
        assert_eq!(mistake.name, setting);
        assert!(mistake.fault.contains("from 1 to"), "{mistake}");
    }
}

#[test]
fn of_two_spellings_the_one_of_the_stronger_origin_counts() {
    let timeout = |values: &[(Origin, &str, &str)]| {
        let mut sources = Sources::default();
        let plugin = [(Origin::File, "PLUGINS", "chat")];
        for (origin, name, value) in plugin.iter().chain(values) {
            let value = ((*name).to_owned(), (*value).to_owned());
            sources = sources.with(*origin, [value]);
        }
        let (config, _) = Config::read(&sources).unwrap();
        config.plugins[0].timeout.as_secs()
    };
    let (own, capitals) = ("chat_TIMEOUT", "CHAT_TIMEOUT");
    let (weak, strong) = (Origin::DotEnv, Origin::Flag);
    assert_eq!(timeout(&[(weak, own, "1"), (strong, capitals, "2")]), 2);
    assert_eq!(timeout(&[(strong, own, "1"), (weak, capitals, "2")]), 1);
    assert_eq!(timeout(&[(weak, own, "1"), (weak, capitals, "2")]), 1);
    assert_eq!(timeout(&[(weak, capitals, "2")]), 2);
}

#[test]
fn wrong_ways_to_plugins_are_all_reported() {
    let mistakes = read(&[
        ("PLUGINS", "A,B,C,D,E,A"),
        ("A_TRANSPORT", "pigeon"),
        ("B_TRANSPORT", "http"),
        ("C_TRANSPORT", "http"),
        ("C_PATH", "localhost:8000"),
        ("D_TRANSPORT", "zmq"),
        ("D_PATH", "one"),
        ("D_ARGS", "tcp://127.0.0.1:5555"),
        ("E_TRANSPORT", "zmq"),
        ("E_PATH", "one"),
    ]);
    let mut names: Vec<_> = mistakes
        .unwrap_err()
        .into_iter()
        .map(|it| it.name)
        .collect();
    names.sort();
    names.dedup();
    let expected = [
        "A_TRANSPORT",
        "B_PATH",
        "C_PATH",
        "E_ARGS",
        "E_PATH",
        "PLUGINS",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_time_zone_is_that_of_the_variable_if_it_names_one() {
    let zone = |values: &[(&str, &str)]| read(values).unwrap().timers;
    for written in [
        "Asia/Tokyo",
        ":Asia/Tokyo",
        "/usr/share/zoneinfo/Asia/Tokyo",
        ":/usr/share/zoneinfo/Asia/Tokyo",
    ] {
        let timers = zone(&[("TZ", written)]);
        assert_eq!(timers.zone.name(), "Asia/Tokyo", "{written}");
        assert_eq!(timers.unread_zone, None, "{written}");
    }
    let machines = zone(&[]);
    assert_eq!(machines.unread_zone, None);
    for odd in ["JST-9", "Asia/Tokio", "/usr/share/zoneinfo/Atlantis", ":"] {
        let timers = zone(&[("TZ", odd)]);
        assert_eq!(timers.zone, machines.zone, "{odd}");
        assert_eq!(timers.unread_zone.as_deref(), Some(odd));
    }
    let timers = zone(&[("TZ", ":/etc/localtime")]);
    assert_eq!(timers, machines);
    // The setting counts, whatever the variable says.
    let timers = zone(&[("TZ", "JST-9"), ("TIMER_ZONE", "Europe/Berlin")]);
    assert_eq!(timers.zone.name(), "Europe/Berlin");
    assert_eq!(timers.unread_zone, None);
}
