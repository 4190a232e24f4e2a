//! Valid bodies with one thing wrong, at every place and in every way.

use serde_json::{Value as Json, json};

use super::World;

/// Values that replace each member, one after the other.
fn strange_values() -> Vec<Json> {
    vec![
        Json::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(""),
        json!("x"),
        json!("\u{0}"),
        json!("a\u{0}b/c\u{0}d"),
        json!("\u{1}\u{7f}\u{9f}\u{202e}\u{feff}"),
        json!("'; DROP TABLE note; --\"`[]"),
        json!("%_\\%"),
        json!("x".repeat(20_000)),
        json!("_reserved/x"),
        json!("/"),
        json!("note/"),
        json!([]),
        json!([null]),
        json!([[]]),
        json!(["", "", ""]),
        json!([{}]),
        json!(["x", 1, null, {}]),
        json!({}),
        json!({"": ""}),
        json!({"\u{0}": "\u{0}"}),
        json!({"$type": "nonsense"}),
        json!({"$type": 1}),
        json!({"$type": "date", "$date": "x"}),
        json!({"$type": "date", "$date": "+999999-01-01T00:00:00Z"}),
        json!({"$type": "date", "$date": "2020-02-30T25:61:61Z"}),
        json!({"$type": "date", "$date": "9999-12-31T23:59:59-01:00"}),
        json!({"$type": "geo", "$lat": 1e300, "$lng": -1e300}),
        json!({"$type": "geo", "$lat": "x"}),
        json!({"$type": "ref", "$id": ""}),
        json!({"$type": "ref", "$id": "nowhere/none"}),
        json!({"$type": "asset", "$name": "../../etc/passwd"}),
        json!({"$type": "keypath", "$val": "a.b.c.d.e"}),
        json!({"$type": "keypath", "$val": ""}),
        json!({"$type": "seq"}),
        json!({"$type": "unknown"}),
        json!({"$type": "geojson", "$val": {"type": "Polygon", "coordinates": [[[]]]}}),
        json!({"$type": "record", "$record": {"_id": 1}}),
    ]
}

/// Collects the places of a body, deepest last, as JSON pointers.
fn places(value: &Json, at: &str, out: &mut Vec<String>) {
    match value {
        Json::Object(members) => {
            for (name, inner) in members {
                let place = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                out.push(place.clone());
                places(inner, &place, out);
            }
        }
        Json::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                let place = format!("{at}/{index}");
                out.push(place.clone());
                places(inner, &place, out);
            }
        }
        _ => {}
    }
}

#[test]
fn each_member_of_each_action_as_everything_it_is_not() {
    let world = World::new();
    let mut asked = 0;
    for request in &world.requests {
        let body: Json = serde_json::from_str(&request.body).unwrap();
        let mut all = Vec::new();
        places(&body, "", &mut all);
        for place in &all {
            for strange in strange_values() {
                let mut wrong = body.clone();
                *wrong.pointer_mut(place).unwrap() = strange;
                world.ask(request, wrong.to_string().as_bytes());
                asked += 1;
            }
        }
    }
    println!("{asked} requests");
    assert!(asked > 2000);
    world.assert_well();
}

/// Members that every action reads.
#[test]
fn common_members_as_everything_they_are_not() {
    let world = World::new();
    let common = [
        "action",
        "api_key",
        "access_token",
        "database_id",
        "_user_id",
        "_rights",
        "_from_plugin",
    ];
    // Each action gets some of the values, and all actions together get all.
    const SHARE: usize = 6;
    for (number, request) in world.requests.iter().enumerate() {
        for name in common {
            for strange in strange_values()
                .into_iter()
                .skip(number % SHARE)
                .step_by(SHARE)
            {
                let mut body: Json = serde_json::from_str(&request.body).unwrap();
                body[name] = strange;
                world.ask(request, body.to_string().as_bytes());
            }
        }
    }
    world.assert_well();
}

/// What a save can require, none of which its first example has.
#[test]
fn what_a_save_requires_as_everything_it_is_not() {
    let world = World::new();
    let requests = &world.requests;
    let save = requests.iter().find(|it| it.section == "record:save");
    let save = save.unwrap();
    let keypath = |name: &str| json!({"$type": "keypath", "$val": name});
    let condition = json!(["and",
        ["or", ["eq", keypath("title"), "x"], ["not", ["in", keypath("pages"), [1, 2]]]],
        ["lt", ["func", "distance", keypath("at"), {"$type": "geo", "$lat": 1, "$lng": 2}], 3],
        ["like", keypath("title"), "x%"]]);
    let record = json!({"_id": "note/first", "title": "x"});
    let bodies = [
        json!({"records": [record], "if": condition}),
        json!({"records": [record], "create_only": true, "keep_access": true}),
    ];
    for body in bodies {
        let mut all = Vec::new();
        places(&body, "", &mut all);
        for place in all.iter().filter(|place| !place.starts_with("/records")) {
            for strange in strange_values() {
                let mut wrong = body.clone();
                *wrong.pointer_mut(place).unwrap() = strange;
                world.ask(save, wrong.to_string().as_bytes());
            }
        }
    }
    world.assert_well();
}

/// A field may have almost any name; none may break the type for later clients.
#[test]
fn fields_with_strange_names_harm_nobody() {
    let world = World::new();
    let save = world
        .requests
        .iter()
        .find(|it| it.section == "record:save")
        .unwrap();
    let query = world
        .requests
        .iter()
        .find(|it| it.section == "record:query")
        .unwrap();
    let names = [
        "",
        " ",
        ".",
        "a.b",
        "a/b",
        "\"",
        "'",
        "`",
        "[",
        "]",
        ";--",
        "$",
        "%",
        "\\",
        "\n",
        "\u{0}",
        "select",
        "rowid",
        "oid",
        "ROWID",
        "_id",
        "_owner",
        "Title",
        "TITLE",
        "ä",
        "日本",
        "\u{202e}",
        "\u{1f600}",
        "a\u{0}b",
        &"n".repeat(63),
        &"n".repeat(64),
        &"n".repeat(10_000),
    ];
    for (number, name) in names.iter().enumerate() {
        for value in [
            json!(1),
            json!("x"),
            json!({"$type": "ref", "$id": "note/first"}),
        ] {
            let record = json!({"_id": format!("strange/{number}"), *name: value});
            let body = json!({"records": [record]});
            world.ask(save, body.to_string().as_bytes());
        }
        for predicate in [
            json!(["eq", {"$type": "keypath", "$val": name}, 1]),
            json!(["in", {"$type": "keypath", "$val": name}, [1, "x", null]]),
            json!(["like", {"$type": "keypath", "$val": name}, "\u{0}%"]),
        ] {
            let sort = json!([[{"$type": "keypath", "$val": name}, "asc"]]);
            let body = json!({"record_type": "strange", "predicate": predicate, "sort": sort});
            world.ask(query, body.to_string().as_bytes());
        }
        let answer = world.ask(
            query,
            json!({"record_type": "strange"}).to_string().as_bytes(),
        );
        assert_eq!(answer.status, 200, "{name:?}: {}", answer.json());
    }
    world.assert_well();
}
