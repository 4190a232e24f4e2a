//! Friends and followers, from outside.

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;

/// Creates users whose ids are in the order of their names, because pages are ordered by id.
fn people<const N: usize>(server: &TestServer, prefix: &str) -> [Client; N] {
    let mut people: Vec<_> = (0..N)
        .map(|number| Client::signed_up(server, &format!("{prefix}{number}")))
        .collect();
    people.sort_by(|one, other| one.user.cmp(&other.user));
    people.try_into().unwrap()
}

fn add(client: &Client, name: &str, targets: &[&Client]) -> Json {
    let targets: Vec<_> = targets.iter().map(|target| &target.user).collect();
    let body = json!({"name": name, "targets": targets});
    client.call("relation:add", body).result()
}

/// Asks for related users; returns their ids and the count.
fn query(client: &Client, name: &str, direction: &str, more: &Json) -> (Vec<String>, u64) {
    let mut body = json!({"name": name, "direction": direction});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    let answer = client.call("relation:query", body);
    let count = answer.json()["info"]["count"].as_u64().unwrap();
    let items = answer.result();
    let ids = items.as_array().unwrap().iter().map(|item| {
        assert_eq!(item["type"], "user");
        let id = item["id"].as_str().unwrap();
        assert_eq!(item["data"]["_id"], json!(format!("user/{id}")));
        id.to_owned()
    });
    (ids.collect(), count)
}

fn ids(people: &[&Client]) -> Vec<String> {
    people.iter().map(|it| it.user.clone().unwrap()).collect()
}

#[test]
fn related_users_come_in_pages() {
    let server = TestServer::start();
    let me = Client::signed_up(&server, "me");
    let them: [Client; 5] = people(&server, "other");
    let them: Vec<&Client> = them.iter().collect();
    add(&me, "follow", &them);
    let page = |more| query(&me, "_follow", "outward", &more);
    assert_eq!(page(json!({})), (ids(&them), 5));
    assert_eq!(page(json!({"limit": 0, "page": 0})), (ids(&them), 5));
    assert_eq!(page(json!({"limit": 2})), (ids(&them[..2]), 5));
    assert_eq!(page(json!({"limit": 2, "offset": 3})), (ids(&them[3..]), 5));
    assert_eq!(page(json!({"limit": 2, "offset": 9})), (vec![], 5));
    // The published client sends this for its pages; v1 ignores it.
    assert_eq!(page(json!({"limit": 2, "page": 1})), (ids(&them[..2]), 5));
    assert_eq!(page(json!({"limit": 2, "page": 3})), (ids(&them[4..]), 5));
    assert_eq!(
        page(json!({"limit": 2.0, "offset": 0, "page": 3})),
        (ids(&them[..2]), 5)
    );
    for bad in [
        json!({"limit": -1}),
        json!({"limit": 1.5}),
        json!({"offset": "x"}),
    ] {
        let mut body = bad.clone();
        body["name"] = json!("follow");
        assert_eq!(me.call("relation:query", body).code(), 107, "{bad}");
    }
}

#[test]
fn each_side_makes_and_ends_its_own_half_of_a_friendship() {
    let server = TestServer::start();
    let [ada, ben] = people(&server, "friend");
    let friends = |client: &Client| query(client, "friend", "", &json!({})).1;
    let one_sided = |client: &Client, direction| query(client, "friend", direction, &json!({})).1;
    // A target that is named twice, or is related already, gives one relation.
    assert_eq!(
        add(&ada, "friend", &[&ben, &ben]).as_array().unwrap().len(),
        2
    );
    add(&ada, "friend", &[&ben]);
    assert_eq!((friends(&ada), one_sided(&ada, "outward")), (0, 1));
    assert_eq!((friends(&ben), one_sided(&ben, "inward")), (0, 1));
    add(&ben, "friend", &[&ada]);
    assert_eq!((friends(&ada), friends(&ben)), (1, 1));
    assert_eq!(query(&ada, "follow", "mutual", &json!({})).1, 0);

    let remove = |client: &Client, target: &Client| {
        let body = json!({"name": "friend", "targets": [target.user]});
        client.call("relation:remove", body).result()
    };
    assert_eq!(remove(&ada, &ben), json!([{"id": ben.user}]));
    let again = remove(&ada, &ben);
    assert_eq!(
        (&again[0]["type"], &again[0]["data"]["code"]),
        (&json!("error"), &json!(110))
    );
    assert_eq!((friends(&ben), one_sided(&ben, "outward")), (0, 1));
    add(&ada, "friend", &[&ada]);
    assert_eq!(
        query(&ada, "friend", "mutual", &json!({})),
        (ids(&[&ada]), 1)
    );
    // The name that v1's iOS SDK uses.
    let body = json!({"name": "friend", "targets": [ada.user]});
    let removed = ada.call("relation:delete", body).result();
    assert_eq!(removed, json!([{"id": ada.user}]));
    assert_eq!(friends(&ada), 0);
}

/// A caller who may not read a user's record learns no more than the id they sent.
#[test]
fn items_say_what_the_asker_may_read() {
    let mut server = TestServer::start();
    let [ada, ben, cy] = people(&server, "reader");
    let id = ben.user.clone().unwrap();
    let user = format!("user/{id}");
    ben.save(&user, json!({"nickname": "Ben", "_access": []}));
    let nobody = "no-such-user";
    let body = json!({"name": "follow", "targets": [nobody, ben.user, cy.user]});
    let added = ada.call("relation:add", body).result();
    let message = format!("failed to fetch user id = {nobody}");
    let error = json!({"name": "UnexpectedError", "code": 10_000, "message": message});
    assert_eq!(
        added[0],
        json!({"id": nobody, "type": "error", "data": error})
    );
    let unread = json!({"_id": user, "_type": "record", "_access": null});
    let unread = json!({"id": id, "type": "user", "data": unread});
    assert_eq!(added[1], unread);
    assert_eq!(added[2]["data"]["_ownerID"], json!(cy.user));

    let found = |client: &Client| {
        let body = json!({"name": "follow", "direction": "outward"});
        let items = client.call("relation:query", body).result();
        let mut items = items.as_array().unwrap().clone().into_iter();
        items.find(|it| it["id"] == json!(id)).unwrap()
    };
    assert_eq!(found(&ada), unread);
    add(&ben, "follow", &[&ben]);
    assert_eq!(found(&ben)["data"]["nickname"], "Ben");

    let for_ada = json!([{"user_id": ada.user, "level": "read"}]);
    ben.save(&user, json!({"_access": for_ada}));
    assert_eq!(found(&ada)["data"]["nickname"], "Ben");
    assert_eq!(add(&cy, "follow", &[&ben])[0], unread);
    server.restart();
    assert_eq!(found(&cy.at(&server)), unread);
    assert_eq!(found(&ada.at(&server))["data"]["nickname"], "Ben");
}

#[test]
fn relations_are_the_callers_own() {
    let server = TestServer::start();
    let anyone = Client::anonymous(&server);
    for action in ["relation:query", "relation:add", "relation:remove"] {
        let body = json!({"name": "follow", "targets": ["x"]});
        assert_eq!(anyone.call(action, body).code(), 101, "{action}");
    }
    let [ada, ben, eve] = people(&server, "owner");
    add(&ada, "follow", &[&ben]);
    assert_eq!(query(&eve, "follow", "outward", &json!({})).1, 0);
    assert_eq!(query(&eve, "follow", "inward", &json!({})).1, 0);
    assert_eq!(
        query(&ben, "follow", "inward", &json!({})),
        (ids(&[&ada]), 1)
    );
}

#[test]
fn changes_at_once_lose_nothing() {
    let server = TestServer::start();
    let me = Client::signed_up(&server, "me");
    let them: [Client; 8] = people(&server, "many");
    std::thread::scope(|scope| {
        for target in &them {
            let me = &me;
            scope.spawn(move || add(me, "follow", &[target]));
        }
    });
    let them: Vec<&Client> = them.iter().collect();
    assert_eq!(query(&me, "follow", "outward", &json!({})), (ids(&them), 8));
}

#[test]
fn who_asks_for_all_is_told_when_they_are_too_many() {
    let server = TestServer::with(&[("MAX_PAGE_RECORDS", "3")]);
    let me = Client::signed_up(&server, "me");
    let them: [Client; 4] = people(&server, "other");
    let them: Vec<&Client> = them.iter().collect();
    add(&me, "follow", &them[..3]);
    let page = |more| query(&me, "follow", "outward", &more);
    assert_eq!(page(json!({})), (ids(&them[..3]), 3));
    add(&me, "follow", &them[3..]);
    for more in [json!({}), json!({"limit": 4})] {
        let mut body = more.clone();
        body["name"] = json!("follow");
        body["direction"] = json!("outward");
        let refused = me.call("relation:query", body);
        assert_eq!(refused.code(), 108, "{more}");
        let limit = json!({"name": "MAX_PAGE_RECORDS", "max": 3});
        assert_eq!(refused.json()["error"]["info"]["limit"], limit);
    }
    assert_eq!(page(json!({"limit": 3})), (ids(&them[..3]), 4));
    assert_eq!(page(json!({"offset": 1})), (ids(&them[1..]), 4));
}

/// Ids stay, as they do in the records that an erased user has created; who it was is gone.
#[test]
fn relations_outlast_their_users_by_id_alone() {
    let mut server = TestServer::start();
    let [ada, ben, eve] = people(&server, "gone");
    add(&ada, "friend", &[&ben]);
    add(&ben, "friend", &[&ada]);
    add(&eve, "follow", &[&ben]);
    let body = json!({"user": ben.user, "why": "the law"});
    let erased = Client::master(&server).call("erase:user", body).result();
    assert_eq!(erased["finished"], true);
    for _ in 0..2 {
        let [ada, eve] = [&ada, &eve].map(|it| it.at(&server));
        let bens = (ids(&[&ben]), 1);
        assert_eq!(query(&ada, "friend", "outward", &json!({})), bens);
        assert_eq!(query(&ada, "friend", "mutual", &json!({})), bens);
        let found = query(&eve, "follow", "outward", &json!({}));
        assert_eq!(found, bens);
        let body = json!({"name": "follow", "direction": "outward"});
        let items = eve.call("relation:query", body).result();
        assert_eq!(items[0]["data"].get("username"), None, "{items}");
        server.restart();
    }
    let [ada, eve] = [&ada, &eve].map(|it| it.at(&server));
    // Nobody else can be related to them, and who is can end it.
    let refused = add(&ada, "follow", &[&ben]);
    assert_eq!(refused[0]["type"], "error", "{refused}");
    let body = json!({"name": "follow", "targets": [ben.user]});
    assert_eq!(
        eve.call("relation:remove", body.clone()).result()[0].get("type"),
        None
    );
    let again = eve.call("relation:remove", body).result();
    assert_eq!(again[0]["data"]["code"], 110, "{again}");
}
