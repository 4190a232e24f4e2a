use super::*;
use crate::plugin::settings::TransportKind;

fn parse(answer: &Json) -> Result<Registration, Vec<Problem>> {
    Registration::parse(answer, TransportKind::WebSocket)
}

#[test]
fn an_answer_of_v1_becomes_typed_points() {
    let registration = parse(&json!({
        "op": [{"name": "hello:world", "key_required": true, "user_required": null}],
        "handler": [{"name": "foo:bar", "methods": ["get", "POST"], "key_required": false}],
        "hook": [
            {"name": "m.f", "type": "note", "trigger": "beforeSave", "async": false,
             "timeout_ms": 250.0, "idempotent": true}],
        "timer": [{"name": "m.tick", "spec": "@every 2m"}],
        "provider": [{"type": "auth", "id": "com.example", "name": "x", "idempotent": true}],
        "event": [{"name": "init"}],
        "unknown": 1
    }))
    .unwrap();
    assert_eq!(
        registration.counts(),
        json!({"op": 1, "handler": 2, "hook": 1, "timer": 1, "provider": 1})
    );
    assert!(registration.ops[0].access.key_required);
    assert!(!registration.ops[0].access.user_required);
    assert_eq!(registration.handlers[0].path, "/foo/bar");
    assert_eq!(registration.handlers[0].method, "GET");
    assert_eq!(
        registration.hooks[0].call.timeout,
        Some(Duration::from_millis(250))
    );
    let idempotent = registration.idempotent_points();
    let expected = [("hook", "m.f"), ("provider", "com.example")];
    let expected = expected.map(|(kind, name)| (kind, name.to_owned()));
    assert_eq!(idempotent, HashSet::from(expected));
}

#[test]
fn a_flag_that_is_no_boolean_is_refused_except_on_the_transports_of_v1() {
    for (list, flag) in [
        ("op", "key_required"),
        ("op", "user_required"),
        ("handler", "user_required"),
        ("hook", "async"),
        ("timer", "idempotent"),
        ("provider", "idempotent"),
    ] {
        for odd in [json!(1), json!(0), json!("true"), json!("")] {
            let mut point = json!({"name": "x", "id": "x", "methods": ["GET"], "type": "note",
                "trigger": "afterSave", "spec": "@daily"});
            point[flag] = odd;
            let answer = json!({list: [point]});
            let message = format!("{flag} should be true or false");
            assert_eq!(parse(&answer), Err(vec![problem(list, "x", &message)]));
            let as_in_v1 = Registration::parse(&answer, TransportKind::Http).unwrap();
            assert!(as_in_v1.ops.iter().all(|op| !op.access.user_required));
        }
    }
    // Members that a list does not have are ignored.
    assert!(parse(&json!({"op": [{"name": "x", "async": 1}]})).is_ok());
}

#[test]
fn an_empty_answer_registers_nothing() {
    assert_eq!(parse(&json!({})), Ok(Registration::default()));
    assert_eq!(parse(&json!([])), Ok(Registration::default()));
    assert_eq!(parse(&json!({"op": null})), Ok(Registration::default()));
}

#[test]
fn of_two_points_with_one_name_the_later_counts() {
    let registration = parse(&json!({
        "op": [{"name": "a"}, {"name": "a", "key_required": true}],
        "handler": [{"name": "h", "methods": ["GET"]}, {"name": "/h", "methods": ["GET"]}],
        "provider": [{"id": "p"}, {"id": "p"}],
    }))
    .unwrap();
    assert!(registration.ops[0].access.key_required);
    assert_eq!(registration.num_points(), 3);
    assert_eq!(registration.handlers[0].name, "/h");
}

#[test]
fn only_the_order_of_hooks_means_anything() {
    let read = |answer: Json| parse(&answer).unwrap();
    let lists = |names: [&str; 2]| {
        let ops = names.map(|name| json!({"name": name}));
        let handlers = names.map(|name| json!({"name": name, "methods": ["GET", "POST"]}));
        let timers = names.map(|name| json!({"name": name, "spec": "@daily"}));
        let providers = names.map(|name| json!({"id": name}));
        json!({"op": ops, "handler": handlers, "timer": timers, "provider": providers})
    };
    assert_eq!(read(lists(["a", "b"])), read(lists(["b", "a"])));
    let hooks = |types: [&str; 2]| json!({"hook": types.map(|it| json!({"name": it, "type": it, "trigger": "beforeSave"}))});
    assert_ne!(read(hooks(["a", "b"])), read(hooks(["b", "a"])));
}

#[test]
fn all_problems_are_reported_at_once() {
    let problems = parse(&json!({
        "op": [{"name": 1}, "x"],
        "handler": [{"name": "pubsub", "methods": ["GET"]}, {"name": "_/plugin", "methods": []},
                    {"name": "files", "methods": ["GET"]}, {"name": ":", "methods": ["GET"]},
                    {"name": "a"}],
        "hook": {"name": "m"},
        "timer": [{"name": "demo:tick", "spec": "60 * * * * *"}],
        "provider": [{"name": "no id"}, {"id": "corp:eu"}],
    }))
    .unwrap_err();
    let lists: Vec<_> = problems
        .iter()
        .map(|problem| problem.list.as_str())
        .collect();
    let expected = [
        "op", "op", "handler", "handler", "handler", "handler", "handler", "hook", "timer",
        "provider", "provider",
    ];
    assert_eq!(lists, expected);
    assert!(problems.contains(&problem("timer", "demo:tick", "second: 60 is above 59")));
    // A guard that would never be called.
    let hook = json!({"name": "m.g", "type": "note", "trigger": "before_save"});
    let problems = parse(&json!({"hook": [hook]})).unwrap_err();
    assert!(
        problems[0].message.contains("not \"before_save\""),
        "{problems:?}"
    );
    assert!(parse(&json!([1])).is_err());
}

#[test]
fn too_many_points_are_refused() {
    let ops: Vec<_> = (0..=MAX_POINTS)
        .map(|n| json!({"name": format!("op{n}")}))
        .collect();
    assert!(parse(&json!({"op": ops})).is_err());
}
