//! Orders of events that once went wrong.

use std::time::Duration;

use serde_json::{Value as Json, json};
use skytrail_schema::query::Scope;

use super::super::{Connected, Credential, LiveQuery, Subscribe};
use super::ear::Ear;
use super::world::{World, audience, changed, created, for_role, note, role, rules};
use super::{Dice, begin, room, run};

async fn all_moves(world: &mut World) {
    world.apply(usize::MAX);
    world.follow(usize::MAX);
    world.release_all().await;
}

async fn hear_all(world: &mut World, ear: &mut Ear) {
    world.come_to_rest().await;
    while ear.hear() {}
    ear.check(&world.fresh(ear).await);
}

fn ear(name: &str) -> Ear {
    let query = json!({"record_type": "note"});
    Ear::new(name.to_owned(), audience(Some("u0")), query)
}

#[test]
fn a_result_by_new_roles_is_of_no_position_before_they_were_given() {
    run(async {
        let mut world = World::new(1 << 20);
        begin(&world);
        let (id, other) = (note("a"), note("b"));
        world.commit(vec![created(&id, json!({"n": 1}), &for_role("red"))]);
        world.commit(vec![created(&other, json!({"n": 1}), &Json::Null)]);
        all_moves(&mut world).await;
        let mut ear = ear("comes back while his roles change");
        ear.connect(&world.service);
        hear_all(&mut world, &mut ear).await;
        ear.disconnect(&world.service);

        // The ear's lens waits for the store; meanwhile memory learns of the role.
        world.commit(vec![changed(&other, json!({"n": 2}), &Json::Null)]);
        ear.connect(&world.service);
        world.rest().await;
        world.commit(vec![role("u0", "red", true)]);
        world.apply(1);
        world.release_all().await;
        world.apply(1);
        world.release_all().await;
        hear_all(&mut world, &mut ear).await;
        world.commit(vec![changed(&id, json!({"n": 2}), &Json::Null)]);
        hear_all(&mut world, &mut ear).await;
    });
}

#[test]
fn who_is_ahead_of_the_follower_is_not_told_a_difference_to_what_it_knew() {
    run(async {
        let mut world = World::new(1 << 20);
        begin(&world);
        world.commit(vec![rules(None)]);
        all_moves(&mut world).await;
        let (mut first, mut second) = (ear("was there"), ear("is ahead"));
        first.connect(&world.service);
        hear_all(&mut world, &mut first).await;

        // The same rules once more: nobody sees anything differently, but the view is silenced.
        world.commit(vec![rules(None)]);
        world.commit(vec![created(&note("a"), json!({"n": 1}), &Json::Null)]);
        world.apply(usize::MAX);
        second.connect(&world.service);
        world.release_all().await;
        world.commit(vec![created(&note("b"), json!({"n": 1}), &Json::Null)]);
        world.apply(usize::MAX);
        world.follow(1);
        world.release_all().await;
        hear_all(&mut world, &mut second).await;
        hear_all(&mut world, &mut first).await;
    });
}

#[test]
fn what_was_looked_up_for_a_query_that_ended_is_nothing_to_the_next_of_its_name() {
    run(async {
        let mut world = World::new(1 << 20);
        begin(&world);
        let (mut first, mut second) = (ear("keeps the view"), ear("asks again"));
        world.commit(vec![created(&note("b"), json!({"n": 1}), &Json::Null)]);
        all_moves(&mut world).await;
        for ear in [&mut first, &mut second] {
            ear.connect(&world.service);
            hear_all(&mut world, ear).await;
        }
        second.disconnect(&world.service);
        world.commit(vec![changed(&note("b"), json!({"n": 2}), &Json::Null)]);
        all_moves(&mut world).await;

        // What the ear missed is being looked up.
        second.connect(&world.service);
        world.rest().await;
        world.commit(vec![created(&note("a"), json!({"n": 1}), &Json::Null)]);
        world.apply(usize::MAX);
        world.follow(usize::MAX);
        world.rest().await;
        second.ask_again(&world.service);
        hear_all(&mut world, &mut second).await;
        hear_all(&mut world, &mut first).await;
    });
}

/// A listener that asks for a lot: it keeps one connection.
struct Greedy(Connected);

impl Greedy {
    fn new(world: &World) -> Self {
        Self(world.service.connect(audience(None), Credential::default()))
    }

    fn ask(&self, world: &World, number: usize) -> bool {
        let path = json!({"$type": "keypath", "$val": "n"});
        let request = json!({"record_type": "note", "predicate": ["lt", path, number]});
        self.ask_for(world, &number.to_string(), &request)
    }

    fn ask_for(&self, world: &World, name: &str, request: &Json) -> bool {
        let subscription = Subscribe {
            name: name.into(),
            query: LiveQuery::parse(request.as_object().unwrap(), Scope::Public).unwrap(),
            from: None,
        };
        world.service.subscribe(self.0.id, subscription).is_ok()
    }

    fn end(&self, world: &World, number: usize) {
        world.service.unsubscribe(self.0.id, &number.to_string());
    }
}

/// Lets the reads after the first one through, until the ear hears something.
async fn pass_by_the_first(world: &mut World, ear: &mut Ear) {
    world.rest().await;
    let mut num_reads = 0;
    while !ear.hear() {
        assert_eq!(
            world.store.gate.num_waiting(),
            2,
            "one of his, one of the ear's"
        );
        world.store.gate.release(1);
        world.rest().await;
        num_reads += 1;
        assert!(num_reads < 9, "it is the ear's turn");
    }
}

#[test]
fn who_asks_for_a_lot_delays_nobody_else() {
    run(async {
        let mut world = World::new(1 << 20);
        begin(&world);
        let greedy = Greedy::new(&world);
        assert!((0..10).all(|number| greedy.ask(&world, number)));
        world.rest().await;
        let mut ear = ear("asks once");
        ear.connect(&world.service);
        pass_by_the_first(&mut world, &mut ear).await;
        hear_all(&mut world, &mut ear).await;
        assert_eq!(world.service.state().num_loads, 11);
    });
}

#[test]
fn what_nobody_waits_for_any_more_is_not_looked_up() {
    run(async {
        let mut world = World::new(1 << 20);
        begin(&world);
        let greedy = Greedy::new(&world);
        assert!(greedy.ask(&world, 1000));
        world.rest().await;
        greedy.end(&world, 1000);
        let mut num_refused = 0;
        for number in 0..500 {
            num_refused += usize::from(!greedy.ask(&world, number));
            greedy.end(&world, number);
            world.rest().await;
        }
        assert!(num_refused > 300, "so many cannot wait");
        let mut ear = ear("asks once");
        ear.connect(&world.service);
        pass_by_the_first(&mut world, &mut ear).await;
        hear_all(&mut world, &mut ear).await;
        // The first was under way already.
        assert_eq!(world.service.state().num_loads, 2);
        assert!(greedy.ask(&world, 1), "he has room again");
    });
}

#[test]
fn who_asks_what_waits_in_anothers_line_does_not_wait_there() {
    run(async {
        let mut world = World::new(1 << 20);
        begin(&world);
        let greedy = Greedy::new(&world);
        assert!((1..4).all(|number| greedy.ask(&world, number)));
        world.rest().await;
        let other = Greedy::new(&world);
        assert!(other.ask(&world, 3));
        world.rest().await;
        assert_eq!(world.store.gate.num_waiting(), 2);
        while world.store.gate.num_waiting() > 1 {
            world.store.gate.release(1);
            world.rest().await;
        }
        assert_eq!(world.service.state().num_loads, 1, "the third of his");
        world.come_to_rest().await;
        assert_eq!(world.service.state().num_loads, 3);
    });
}

/// Listens over a connection of its own.
fn asking(world: &World, name: String, query: Json) -> Ear {
    let mut ear = Ear::new(name, audience(Some("u0")), query);
    ear.connect(&world.service);
    ear
}

#[test]
fn who_waits_until_the_log_has_what_sql_did_holds_up_nobody_else() {
    run(async {
        let mut world = World::new(1 << 20);
        begin(&world);
        world.commit(vec![created(&note("a"), json!({"n": 1}), &Json::Null)]);
        all_moves(&mut world).await;
        world.by_sql(vec![changed(&note("a"), json!({"n": 2}), &Json::Null)]);
        let path = json!({"$type": "keypath", "$val": "room.n"});
        // More than are looked up at once.
        let beyond = (0..100).map(|number| {
            let query = json!({"record_type": "note", "predicate": ["lt", path, number]});
            asking(&world, format!("looks into rooms, {number}"), query)
        });
        let mut beyond: Vec<Ear> = beyond.collect();
        let greedy = Greedy::new(&world);
        let query = json!({"record_type": "note", "predicate": ["gt", path, 0]});
        assert!(greedy.ask_for(&world, "beyond", &query));
        world.release_all().await;
        // Time stands still, so all of them are waiting.
        assert_eq!(world.service.state().num_loads, 0);
        let rooms = json!({"record_type": "room"});
        let mut other = asking(&world, "asks for rooms".to_owned(), rooms);
        let few = json!({"record_type": "room", "desired_keys": ["n"]});
        assert!(greedy.ask_for(&world, "rooms", &few));
        world.release_all().await;
        assert_eq!(world.service.state().num_loads, 2);
        assert!(other.hear());
        while world.ingest(&mut Dice::new(1)) {
            world.apply(usize::MAX);
        }
        for ear in beyond.iter_mut().chain([&mut other]) {
            hear_all(&mut world, ear).await;
        }
    });
}

#[test]
fn a_result_that_takes_too_long_ends_no_query_that_has_one() {
    run(async {
        let mut world = World::new(1 << 20);
        begin(&world);
        let mut has_one = ear("has a result");
        has_one.connect(&world.service);
        hear_all(&mut world, &mut has_one).await;
        world.commit(vec![role("u0", "red", true)]);
        world.apply(usize::MAX);
        world.follow(usize::MAX);
        world.rest().await;
        let mut new = ear("is new");
        new.connect(&world.service);
        for _ in 0..2 {
            world.rest().await;
            assert_eq!(world.store.gate.num_waiting(), 1);
            tokio::time::advance(Duration::from_secs(61)).await;
            world.rest().await;
            world.store.gate.release(0);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        while new.hear() {}
        assert!(new.has_failed, "told when to ask again: {:?}", new.heard);
        while has_one.hear() {}
        assert!(!has_one.has_failed);
        world.commit(vec![created(&note("a"), json!({"n": 1}), &for_role("red"))]);
        hear_all(&mut world, &mut has_one).await;
        new.connect(&world.service);
        hear_all(&mut world, &mut new).await;
    });
}

/// However far the load has got when an included record changes.
#[test]
fn what_a_result_includes_is_of_the_results_position() {
    run(async {
        for (num_reads, max_bytes) in (0..10).flat_map(|number| [(number, 0), (number, 1 << 20)]) {
            let mut world = World::new(max_bytes);
            begin(&world);
            let room = room();
            let fields = json!({"n": 1, "room": {"$type": "ref", "$id": "room/r"}});
            world.commit(vec![created(&room, json!({"n": 1}), &Json::Null)]);
            world.commit(vec![created(&note("a"), fields, &Json::Null)]);
            all_moves(&mut world).await;
            let path = |name: &str| json!({"$type": "keypath", "$val": name});
            let query = json!({"record_type": "note", "predicate": ["lt", path("room.n"), 5],
                "include": {"room": path("room")}});
            let mut ear = asking(&world, format!("after {num_reads} reads"), query);
            world.rest().await;
            for _ in 0..num_reads {
                if world.store.gate.num_waiting() > 0 {
                    world.store.gate.release(0);
                }
                world.rest().await;
            }
            world.commit(vec![changed(&room, json!({"n": 9}), &Json::Null)]);
            world.apply(usize::MAX);
            world.release_all().await;
            while ear.hear() {}
            let heard = ear.heard.concat();
            assert!(heard.contains("ready"), "{heard}");
            assert!(!heard.contains("\"n\":9"), "{heard}");
            hear_all(&mut world, &mut ear).await;
        }
    });
}

/// Covers both what the follower shows and what has waited for a result.
#[test]
fn records_are_looked_at_and_written_while_nobody_has_the_desk() {
    run(async {
        let mut world = World::new(1 << 20);
        begin(&world);
        world.watch_the_lock();
        let mut ear = ear("hears of records with files");
        ear.connect(&world.service);
        hear_all(&mut world, &mut ear).await;
        let file = json!({"$type": "asset", "$name": "f", "$content_type": "text/plain"});
        let with_file = |n: u64| json!({"n": n, "file": file});
        world.commit(vec![created(&note("a"), with_file(1), &Json::Null)]);
        hear_all(&mut world, &mut ear).await;
        let num_shown = world.urls.was_locked.lock().len();
        assert!(num_shown > 0);

        // The ear has to wait for a load; meanwhile something happens.
        world.commit(vec![role("u0", "red", true)]);
        world.apply(usize::MAX);
        world.follow(usize::MAX);
        world.rest().await;
        assert_eq!(world.store.gate.num_waiting(), 1);
        world.commit(vec![created(&note("b"), with_file(2), &Json::Null)]);
        world.follow(usize::MAX);
        // The store answers with the state from before.
        world.release_all().await;
        hear_all(&mut world, &mut ear).await;
        let was_locked = world.urls.was_locked.lock().clone();
        assert!(was_locked.len() > num_shown);
        assert!(!was_locked.contains(&true), "{was_locked:?}");
    });
}

/// An ear that has the result and is not connected any more.
async fn away(world: &mut World, name: &str) -> Ear {
    let mut ear = ear(name);
    ear.connect(&world.service);
    hear_all(world, &mut ear).await;
    ear.disconnect(&world.service);
    ear
}

#[test]
fn new_results_and_rights_do_not_wait_for_what_others_missed() {
    run(async {
        // What was missed is read from the store.
        let mut world = World::new(0);
        begin(&world);
        world.commit(vec![created(&note("a"), json!({"n": 1}), &Json::Null)]);
        let mut back = Vec::new();
        for number in 0..9 {
            // Each comes back from another position.
            back.push(away(&mut world, &format!("comes back, {number}")).await);
            world.commit(vec![changed(&note("a"), json!({"n": number}), &Json::Null)]);
        }
        let mut there = ear("was there");
        there.query = json!({"record_type": "note", "desired_keys": ["n"]});
        there.connect(&world.service);
        hear_all(&mut world, &mut there).await;
        // The result is known as long as somebody has it.
        let mut stays = ear("stays");
        stays.connect(&world.service);
        hear_all(&mut world, &mut stays).await;
        for ear in &mut back {
            ear.connect(&world.service);
        }
        world.rest().await;
        let held = world.store.gate.num_waiting();
        assert!(held > 0, "replays are under way");
        let mut new = ear("is new");
        new.query = json!({"record_type": "note", "desired_keys": ["secret"]});
        new.connect(&world.service);
        let before = there.heard.len();
        world.commit(vec![created(&note("b"), json!({"n": 1}), &for_role("red"))]);
        world.commit(vec![role("u0", "red", true)]);
        world.apply(usize::MAX);
        world.follow(usize::MAX);
        world.rest().await;
        while world.store.gate.num_waiting() > held {
            world.store.gate.release(held);
            world.rest().await;
        }
        while there.hear() {}
        while new.hear() {}
        assert!(there.heard[before..].concat().contains("note/b"));
        assert!(new.heard.concat().contains("ready"), "{:?}", new.heard);
        let told = world.service.state();
        assert_eq!(told.num_replays + told.num_resets, 0);
        for ear in back.iter_mut().chain([&mut there, &mut new, &mut stays]) {
            hear_all(&mut world, ear).await;
        }
    });
}

#[test]
fn those_who_missed_the_same_share_one_replay() {
    let num_reads = |number: usize| async move {
        let mut world = World::new(0);
        begin(&world);
        world.commit(vec![created(&note("a"), json!({"n": 1}), &Json::Null)]);
        let mut stays = ear("stays");
        stays.connect(&world.service);
        hear_all(&mut world, &mut stays).await;
        let mut back = Vec::new();
        for _ in 0..number {
            back.push(away(&mut world, "comes back").await);
        }
        world.commit(vec![changed(&note("a"), json!({"n": 2}), &Json::Null)]);
        all_moves(&mut world).await;
        for ear in &mut back {
            ear.connect(&world.service);
        }
        world.rest().await;
        // Whoever asked first does not wait any more; the others do.
        if number > 1 {
            back.remove(0).disconnect(&world.service);
        }
        let mut num_reads = 0;
        while world.store.gate.num_waiting() > 0 {
            world.store.gate.release(0);
            world.rest().await;
            num_reads += 1;
        }
        assert_eq!(world.service.state().num_replays, back.len() as u64);
        for ear in &mut back {
            hear_all(&mut world, ear).await;
        }
        num_reads
    };
    run(async {
        let of_one = num_reads(1).await;
        assert!(of_one > 0);
        assert_eq!(num_reads(5).await, of_one);
    });
}
