//! Who sees which fields of past records, when fields have been renamed or deleted since.

use super::*;

fn path(name: &str) -> Json {
    json!({"$type": "keypath", "$val": name})
}

fn now(server: &TestServer) -> Json {
    Client::master(server).health()["log"]["head"].clone()
}

/// A rule for a field of notes that allows everything, or nothing.
fn rule(field: &str, role: &str, is_open: bool) -> Json {
    json!({
        "record_type": "note", "record_field": field, "user_role": role, "writable": is_open,
        "readable": is_open, "comparable": is_open, "discoverable": is_open,
    })
}

fn closed(field: &str) -> Vec<Json> {
    ["_any_user", "_public"]
        .map(|role| rule(field, role, false))
        .into()
}

struct World {
    server: TestServer,
    master: Client,
    ada: Client,
    /// An administrator.
    boss: Client,
    bob: Client,
    nobody: Client,
}

impl World {
    fn new(is_temporal: bool) -> Self {
        let server = TestServer::with(&[("HISTORY_FOR_OWNERS", "note")]);
        let master = Client::master(&server);
        let [ada, boss, bob] = ["ada", "boss", "bob"].map(|name| Client::signed_up(&server, name));
        master
            .call("role:admin", json!({"roles": ["Boss"]}))
            .result();
        let body = json!({"users": [boss.user], "roles": ["Boss"]});
        master.call("role:assign", body).result();
        let set = json!({"type": "note", "temporal": is_temporal});
        assert_eq!(master.call("schema:temporal", set.clone()).result(), set);
        Self {
            nobody: Client::anonymous(&server),
            server,
            master,
            ada,
            boss,
            bob,
        }
    }

    fn set_rules(&self, rules: &[Json]) {
        let body = json!({"access": rules});
        self.master
            .call("schema:field_access:update", body)
            .result();
    }

    fn rename(&self, from: &str, to: &str) {
        let body = json!({"record_type": "note", "item_name": from, "new_name": to});
        self.master.call("schema:rename", body).result();
    }

    fn delete_field(&self, field: &str) {
        let body = json!({"record_type": "note", "item_name": field});
        self.master.call("schema:delete", body).result();
    }

    /// Returns all ways to look at `field` of notes at a past position, and whether each reveals
    /// values that begin with "top"; refused ones reveal nothing.
    fn looks(&self, client: &Client, field: &str, then: &Json) -> Vec<(String, bool)> {
        let ask = |record_type: &str, more: Json| {
            let mut body = json!({"record_type": record_type, "as_of": then});
            body.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            client.call("record:query", body).json()
        };
        let through = |name: &str| {
            let conditions = [
                json!(["eq", path(name), "top1"]),
                json!(["in", path(name), ["top1"]]),
                json!(["like", path(name), "top%"]),
                json!(["not", ["eq", path(name), "other"]]),
            ];
            conditions.map(|condition| json!({"predicate": condition}))
        };
        let notes = through(field).into_iter();
        let notes = notes.chain([json!({"sort": [[path(field), "asc"]]})]);
        let notes = notes.map(|more| ("note", more));
        let pages = through(&format!("note.{field}"));
        let searches = notes.chain(pages.map(|more| ("page", more)));
        let shows = |answer: Json| answer.to_string().contains("top");
        let searches = searches.map(|(of_type, more)| {
            let answer = ask(of_type, more.clone());
            let code = answer["error"]["code"].as_i64().unwrap_or_default();
            let is_found = answer["result"][0]["_id"].is_string();
            assert_eq!(is_found, code != 124, "{more} {answer}");
            (more.to_string(), is_found)
        });
        let mut looks: Vec<_> = searches.collect();
        let included = json!({"include": {"note": path("note")}});
        let fetched = json!({"ids": ["note/1", "note/2"], "as_of": then});
        for (what, answer) in [
            ("query", ask("note", json!({}))),
            ("desired", ask("note", json!({"desired_keys": [field]}))),
            ("include", ask("page", included)),
            ("fetch", client.call("record:fetch", fetched).json()),
        ] {
            assert!(answer["result"][0]["_id"].is_string(), "{what} {answer}");
            looks.push((what.to_owned(), shows(answer)));
        }
        looks
    }

    /// Fails unless everybody, or only the master key, can see `field` at a past position.
    fn check(&self, field: &str, then: &Json, is_open: bool, when: &str) {
        for client in [&self.nobody, &self.bob, &self.boss, &self.ada] {
            for (what, is_seen) in self.looks(client, field, then) {
                assert_eq!(is_seen, is_open, "{when}: {what} {client:?}");
            }
        }
        for client in [&self.boss, &self.ada] {
            let histories = ["note/1", "note/2"].map(|id| versions(client, id));
            let shown = json!(histories).to_string();
            assert_eq!(shown.contains("top"), is_open, "{when}: {shown}");
        }
        for (what, is_seen) in self.looks(&self.master, field, then) {
            assert!(is_seen, "{when}: {what}");
        }
        let shown = json!(versions(&self.master, "note/1"));
        assert!(shown.to_string().contains("top"), "{when}: {shown}");
    }

    /// Saves two notes, the first of which is changed later, and a page that refers to it.
    fn save_notes(&self, field: &str) -> Json {
        for (id, value) in [("note/1", "top1"), ("note/2", "top2")] {
            let mut note = json!({"n": 1});
            note[field] = value.into();
            self.ada.save(id, note);
        }
        let reference = json!({"$type": "ref", "$id": "note/1"});
        self.ada.save("page/1", json!({"note": reference}));
        let then = now(&self.server);
        self.ada.save("note/1", json!({"n": 2}));
        then
    }
}

#[test]
fn a_hidden_field_is_hidden_under_the_names_that_it_had() {
    for is_temporal in [false, true] {
        let world = World::new(is_temporal);
        let then = world.save_notes("secret");
        world.check("secret", &then, true, "no rule yet");
        world.set_rules(&closed("secret"));
        world.check("secret", &then, false, "closed");
        world.rename("secret", "s2");
        world.check("secret", &then, false, "renamed");
        let between = now(&world.server);
        world.rename("s2", "s3");
        world.check("secret", &then, false, "renamed twice");
        world.check("s2", &between, false, "renamed once then");
        // Another field has the name now, and everybody may see that one.
        let open = ["_any_user", "_public"].map(|role| rule("secret", role, true));
        world.set_rules(&[closed("s3"), open.to_vec()].concat());
        world.ada.save("note/1", json!({"secret": "another"}));
        world.check("secret", &then, false, "another one of its name");
        let shown = fetch(&world.nobody, "note/1", &now(&world.server));
        assert_eq!(shown["secret"], "another");

        world.delete_field("s3");
        world.check("secret", &then, false, "deleted");
        world.check("s2", &between, false, "deleted, renamed once then");
        world.set_rules(&open);
        world.check("secret", &then, false, "deleted, and its rules are gone");
        world.check("s2", &between, false, "renamed once then, rules are gone");
    }
}

#[test]
fn an_open_field_that_went_can_be_closed_but_not_by_the_rules_of_another() {
    for is_temporal in [false, true] {
        let world = World::new(is_temporal);
        let then = world.save_notes("text");
        world.set_rules(&closed("other"));
        world.rename("text", "body");
        world.delete_field("body");
        world.check("text", &then, true, "deleted");
        world.set_rules(&closed("text"));
        world.check("text", &then, true, "its first name is closed");
        world.set_rules(&closed("body"));
        world.check("text", &then, false, "its last name is closed");
    }
}

#[test]
fn fields_that_change_their_names_keep_their_rules() {
    for is_temporal in [false, true] {
        let world = World::new(is_temporal);
        let note = json!({"a": "shown", "b": "hidden", "n": 1});
        world.ada.save("note/1", note);
        world.set_rules(&closed("b"));
        let mut moments = vec![(now(&world.server), ["a", "b"])];
        for (n, from, to, names) in [
            (2, "a", "c", ["c", "b"]),
            (3, "b", "a", ["c", "a"]),
            (4, "c", "b", ["b", "a"]),
        ] {
            world.rename(from, to);
            world.ada.save("note/1", json!({"n": n}));
            moments.push((now(&world.server), names));
        }
        let check = |record: &Json, [shown, hidden]: [&str; 2]| {
            assert_eq!(record[shown], "shown", "{record}");
            assert_eq!(record.get(hidden), None, "{record}");
        };
        for (then, names) in &moments {
            for client in [&world.bob, &world.nobody] {
                check(&fetch(client, "note/1", then), *names);
                let body = json!({"record_type": "note", "as_of": then});
                check(&client.call("record:query", body).result()[0], *names);
            }
        }
        // Newest version first.
        let shown = versions(&world.boss, "note/1");
        assert_eq!(shown.len(), moments.len());
        for (version, (_, names)) in shown.iter().zip(moments.iter().rev()) {
            check(&version["record"], *names);
        }
        let first = json!({
            "a": {"after": "shown"}, "n": {"after": 1}, "_ownerID": {"after": world.ada.user},
        });
        assert_eq!(shown[3]["changes"], first);
        for version in &shown[..3] {
            let changes = version["changes"].as_object().unwrap();
            assert_eq!(changes.keys().collect::<Vec<_>>(), ["n"], "{version}");
        }
    }
}

#[test]
fn users_whom_a_field_names_are_those_whom_it_named_under_its_old_name() {
    let world = World::new(false);
    let note = json!({"text": "top", "editors": [world.bob.user]});
    world.ada.save("note/1", note);
    let named = rule("text", "_field:editors", true);
    world.set_rules(&[vec![named], closed("text")].concat());
    let then = now(&world.server);
    world.rename("editors", "writers");
    world.rename("text", "body");
    assert_eq!(fetch(&world.bob, "note/1", &then)["text"], "top");
    assert_eq!(fetch(&world.ada, "note/1", &then).get("text"), None);
    // Users named by another field that has the name now do not count.
    let named = rule("body", "_field:editors", true);
    world.set_rules(&[vec![named], closed("body")].concat());
    let editors = json!({"editors": [world.ada.user]});
    world.ada.save("note/1", editors);
    assert_eq!(fetch(&world.ada, "note/1", &Json::Null)["body"], "top");
    assert_eq!(fetch(&world.bob, "note/1", &then).get("text"), None);
}

#[test]
fn a_field_is_seen_by_those_whom_the_record_named_then_and_names_today() {
    for is_temporal in [false, true] {
        let world = World::new(is_temporal);
        let [ada, boss, bob] = [&world.ada, &world.boss, &world.bob];
        let users = |clients: &[&Client]| {
            let users = clients.iter().map(|client| client.user.clone());
            json!(users.collect::<Vec<_>>())
        };
        let note = json!({"text": "top", "editors": users(&[boss, ada])});
        ada.save("note/1", note);
        let reference = json!({"$type": "ref", "$id": "note/1"});
        ada.save("page/1", json!({"note": reference}));
        let named = rule("text", "_field:editors", true);
        world.set_rules(&[vec![named], closed("text")].concat());
        let then = now(&world.server);
        let later = json!({"editors": users(&[boss, bob]), "text": "top secret"});
        ada.save("note/1", later);
        let look = |client: &Client| {
            let query = |record_type: &str, more: Json| {
                let mut body = json!({"record_type": record_type, "as_of": then});
                let more = more.as_object().unwrap().clone();
                body.as_object_mut().unwrap().extend(more);
                client.call("record:query", body).result()[0].clone()
            };
            let included = json!({"include": {"note": path("note")}});
            let seen = [
                fetch(client, "note/1", &then),
                query("note", json!({})),
                query("note", json!({"desired_keys": ["text"]})),
                query("page", included)["_transient"]["note"].clone(),
            ];
            seen.map(|record| record["text"] == "top")
        };
        let check = |what: &str| {
            for (name, client, is_seen) in [
                ("boss, named then and today", boss, true),
                ("ada, named then", ada, false),
                ("bob, named today", bob, false),
                ("master", &world.master, true),
            ] {
                assert_eq!(look(client), [is_seen; 4], "{what} {is_temporal} {name}");
            }
            let of_ada = Json::from(versions(ada, "note/1")).to_string();
            assert!(!of_ada.contains("\"top\""), "{what} {of_ada}");
        };
        check("there");
        world.rename("editors", "writers");
        check("renamed");
        world.rename("text", "body");
        check("renamed both");
        delete(ada, "page/1");
        delete(ada, "note/1");
        check("deleted");
        world.rename("writers", "people");
        check("renamed when it was deleted");
        world.delete_field("body");
        check("its field deleted, too");
        world.rename("people", "them");
        check("renamed when the field was gone");
    }
}

#[test]
fn a_field_that_was_closed_then_is_closed_then() {
    for is_temporal in [false, true] {
        let world = World::new(is_temporal);
        world.save_notes("text");
        world.set_rules(&closed("text"));
        let then = now(&world.server);
        world.ada.save("note/1", json!({"n": 3}));
        world.set_rules(&[]);
        let after = now(&world.server);
        world.ada.save("note/1", json!({"n": 4}));
        for client in [&world.nobody, &world.bob, &world.ada] {
            for (what, is_seen) in world.looks(client, "text", &then) {
                assert!(!is_seen, "{what} {client:?}");
            }
            for (what, is_seen) in world.looks(client, "text", &after) {
                assert!(is_seen, "{what} {client:?}");
            }
        }
        for (what, is_seen) in world.looks(&world.master, "text", &then) {
            assert!(is_seen, "{what}");
        }
    }
}

#[test]
fn a_reference_is_followed_by_those_whom_the_record_shuts_out_neither_then_nor_today() {
    let world = World::new(false);
    let [ada, bob, boss] = [&world.ada, &world.bob, &world.boss];
    world.save_notes("text");
    let shut_out = |client: &Client| json!({"out": [client.user]});
    ada.save("page/1", shut_out(bob));
    let page = |role: &str, is_open: bool| {
        let mut rule = rule("note", role, is_open);
        rule["record_type"] = "page".into();
        rule
    };
    world.set_rules(&[page("_field:out", false), page("_public", true)]);
    let then = now(&world.server);
    ada.save("page/1", shut_out(boss));
    for (client, is_followed) in [(bob, false), (boss, false), (ada, true)] {
        let body = json!({
            "record_type": "page", "as_of": then, "include": {"note": path("note")},
        });
        let page = client.call("record:query", body).result()[0].clone();
        let brought = &page["_transient"]["note"];
        assert_eq!(brought.is_object(), is_followed, "{client:?} {page}");
    }
}

#[test]
fn what_hooks_changed_in_a_hidden_field_is_not_told() {
    let server = TestServer::with(&[("HISTORY_FOR_OWNERS", "note"), ("PLUGINS", "TEST")]);
    let before =
        |name: &str| json!({"name": name, "type": "note", "trigger": "beforeSave", "async": false});
    let hooks = json!({"hook": [before("deal"), before("shuffle")]});
    let mut worker = Worker::ready(&server, &json!({}), &hooks);
    let (master, ada) = (Client::master(&server), Client::signed_up(&server, "ada"));
    let mut save = |record: Json, brought: [Json; 2]| {
        let saving = crate::plugin::call(&ada, "record:save", json!({"records": [record]}));
        for (name, brought) in ["deal", "shuffle"].into_iter().zip(brought) {
            let request = worker.expect_request(name);
            worker.answer_record(&request, &brought);
        }
        assert_eq!(saving.join().unwrap().result()[0]["_type"], "record");
    };
    save(
        json!({"_id": "note/1", "n": 1}),
        [json!({"seed": 7, "deck": "ab"}), json!({"seed": 8})],
    );
    save(
        json!({"_id": "note/1", "n": 2}),
        [
            json!({"seed": null, "deck": "ba", "_access": []}),
            json!({"seed": null}),
        ],
    );
    let schema = |action: &str, field: &str, to: &str| {
        let body = json!({"record_type": "note", "item_name": field, "new_name": to});
        master.call(action, body).result();
    };
    let told = |client: &Client| {
        let versions = versions(client, "note/1");
        let hooks = versions.iter().map(|version| version["hooks"].clone());
        json!(hooks.collect::<Vec<_>>())
    };
    let one =
        |hook: &str, changed: Json| json!({"plugin": "TEST", "hook": hook, "changed": changed});
    let all = json!([
        [one("deal", json!(["_access", "deck", "seed"]))],
        [
            one("deal", json!(["deck", "seed"])),
            one("shuffle", json!(["seed"]))
        ],
    ]);
    assert_eq!([told(&ada), told(&master)], [all.clone(), all.clone()]);
    let rules = json!({"access": closed("seed")});
    master.call("schema:field_access:update", rules).result();
    let seen = json!([
        [one("deal", json!(["_access", "deck"]))],
        [one("deal", json!(["deck"]))],
    ]);
    assert_eq!([told(&ada), told(&master)], [seen.clone(), all.clone()]);
    schema("schema:rename", "seed", "start");
    assert_eq!(told(&ada), seen);
    schema("schema:delete", "start", "");
    delete(&ada, "note/1");
    assert_eq!(told(&ada), json!([[], seen[0], seen[1]]));
    assert_eq!(told(&master), json!([[], all[0], all[1]]));
}
