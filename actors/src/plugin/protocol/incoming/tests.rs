use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parsed(value: &Json) -> Result<WorkerFrame, FrameError> {
    parse(&value.to_string())
}

#[test]
fn every_type_is_understood() {
    let frame = parsed(
        &json!({"type": "hello", "plugin": "CHAT", "worker": "w", "generation": 7,
        "window": 16, "max_message": 100, "features": ["resume"], "sdk": "x", "more": 1}),
    )
    .unwrap();
    let WorkerMessage::Hello(hello) = frame.message else {
        panic!("not a hello");
    };
    assert_eq!((hello.plugin.as_str(), hello.generation), ("CHAT", 7));

    let frame = parsed(&json!({"type": "response", "seq": 3, "ack": 5, "id": "r5",
        "result": null}))
    .unwrap();
    assert_eq!((frame.seq, frame.ack), (Some(3), Some(5)));
    assert_eq!(
        frame.message,
        WorkerMessage::Response(ResponseMessage {
            id: "r5".into(),
            outcome: Outcome::Result(Json::Null)
        })
    );

    let frame = parsed(
        &json!({"type": "call", "id": "c1", "parent": "r7", "timeout_ms": 10,
        "payload": {"action": "me"}}),
    )
    .unwrap();
    let WorkerMessage::Call(call) = frame.message else {
        panic!("not a call");
    };
    assert_eq!(call.timeout, Some(Duration::from_millis(10)));

    let simple = [
        (
            json!({"type": "cancel", "id": "c1"}),
            WorkerMessage::Cancel("c1".into()),
        ),
        (
            json!({"type": "progress", "id": "r1"}),
            WorkerMessage::Progress("r1".into()),
        ),
        (
            json!({"type": "window", "size": 0}),
            WorkerMessage::Window(0),
        ),
        (
            json!({"type": "drain", "reason": "x"}),
            WorkerMessage::Drain(None),
        ),
        (json!({"type": "ping", "ack": 1}), WorkerMessage::Ping),
        (json!({"type": "pong"}), WorkerMessage::Pong),
        (
            json!({"type": "news"}),
            WorkerMessage::Unknown("news".into()),
        ),
    ];
    for (wire, message) in simple {
        assert_eq!(parsed(&wire).unwrap().message, message);
    }
}

#[test]
fn result_and_error_exclude_each_other() {
    let cases = [
        (json!({"result": 1}), Outcome::Result(json!(1))),
        (
            json!({"result": 1, "error": null}),
            Outcome::Result(json!(1)),
        ),
        (
            json!({"error": {"code": 1}}),
            Outcome::Error(json!({"code": 1})),
        ),
        (json!({"result": 1, "error": {}}), Outcome::Malformed),
        (json!({}), Outcome::Malformed),
        (json!({"error": null}), Outcome::Malformed),
        (json!({"error": []}), Outcome::Error(json!({}))),
        (json!({"error": ["boom"]}), Outcome::Malformed),
        (json!({"error": "boom"}), Outcome::Malformed),
    ];
    for (mut wire, expected) in cases {
        wire["type"] = json!("response");
        wire["id"] = json!("r1");
        let WorkerMessage::Response(response) = parsed(&wire).unwrap().message else {
            panic!("not a response");
        };
        assert_eq!(response.outcome, expected, "{wire}");
    }
}

#[test]
fn habits_of_encoders_are_accepted() {
    let frame = parse(r#"{"type":"window","seq":3.0,"ack":5.0,"size":16.0}"#).unwrap();
    assert_eq!((frame.seq, frame.ack), (Some(3), Some(5)));
    assert_eq!(frame.message, WorkerMessage::Window(16));
    let call = json!({"type": "call", "id": "c1", "timeout_ms": 10.0, "payload": []});
    let WorkerMessage::Call(call) = parsed(&call).unwrap().message else {
        panic!("not a call");
    };
    assert_eq!(call.timeout, Some(Duration::from_millis(10)));
    assert!(call.payload.is_empty());
    assert!(parse(r#"{"type":"ping","seq":1.5}"#).is_err());
}

#[test]
fn malformed_messages_are_refused() {
    for text in [
        "",
        "nonsense",
        "[]",
        "1",
        "null",
        "{}",
        "{\"type\":1}",
        "{\"type\":\"response\"}",
        "{\"type\":\"window\"}",
        "{\"type\":\"window\",\"size\":-1}",
        "{\"type\":\"call\",\"id\":\"c\"}",
        "{\"type\":\"ping\",\"seq\":\"1\"}",
        "{\"type\":\"hello\"}",
        "{\"type\":\"ping\"} trailing",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn depth_is_bounded_and_strings_do_not_count() {
    let nested = |depth: usize| {
        let inner = format!("{}{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        format!("{{\"type\":\"response\",\"id\":\"r1\",\"result\":{inner}}}")
    };
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(parse(&nested(MAX_DEPTH + 1)), Err(FrameError::TooDeep));
    assert_eq!(parse(&nested(100_000)), Err(FrameError::TooDeep));
    let brackets = json!({"type": "warning", "message": "[\"[".repeat(200)});
    assert!(parsed(&brackets).is_ok());
}

proptest! {
    #[test]
    fn no_text_panics(text in ".*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_near_miss_panics(
        kind in prop_oneof!["hello|response|call|window|cancel|drain|ping|warning"],
        member in prop_oneof!["id|seq|payload|result|error|size|plugin|timeout_ms|drain_ms"],
        value in prop_oneof!["-?[0-9]{1,25}(\\.[0-9]{1,3})?(e[0-9]{1,3})?", "\\[*\\]*", "\"[a-z]*\"", "null|true|\\{\\}"],
    ) {
        let _ = parse(&format!("{{\"type\":\"{kind}\",\"{member}\":{value},\"id\":\"x\"}}"));
    }
}
