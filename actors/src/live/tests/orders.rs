//! Orders of things that once went wrong.

use serde_json::{Value as Json, json};

use super::ear::Ear;
use super::world::{World, audience, changed, created, for_role, note, role, rules};
use super::{begin, run};

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

        // His lens waits for the store; meanwhile memory learns of the role.
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

        // The same rules once more: nobody sees otherwise, but the view is silenced.
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

        // What he missed is being looked up.
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
