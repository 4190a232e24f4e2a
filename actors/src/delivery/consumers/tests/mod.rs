//! How consumers behave when their surroundings fail.

mod registry;
mod world;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use skytrail_schema::code::ApiError;
use tokio::sync::oneshot;

use super::messages::{Command, ConsumerState, Order, Target};
use super::{ConsumerCheckpoint, Cursor};
use world::{Running, Seen, World, run_for};

/// Returns the checkpoint of a plugin that has received everything, with a hook of this name.
fn checkpoint_of(hook: &str) -> ConsumerCheckpoint {
    ConsumerCheckpoint {
        cursor: Cursor::at(0),
        since: BTreeMap::from([(format!("afterSave note {hook}"), 0)]),
        ..ConsumerCheckpoint::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_promise_that_cannot_be_kept_is_tried_again_once_a_second() {
    let world = World::new();
    world
        .consumer_store
        .is_failing
        .store(true, Ordering::Relaxed);
    world.plugin.register(&["a"], 1);
    let Running {
        delivery_loop,
        seen,
    } = world.delivery_loop(None);
    let mut delivery_loop = Box::pin(delivery_loop.run());
    run_for(delivery_loop.as_mut(), 10).await;
    let num_tries = world.consumer_store.num_tries.load(Ordering::Relaxed);
    assert!((2..=11).contains(&num_tries), "{num_tries} in 10 s");
    assert_eq!(seen.state().state, "unknown");

    world
        .consumer_store
        .is_failing
        .store(false, Ordering::Relaxed);
    run_for(delivery_loop.as_mut(), 2).await;
    assert_eq!(seen.state().state, "running");
    assert!(world.consumer_store.consumers.lock().contains_key("p"));
}

#[tokio::test(start_paused = true)]
async fn who_waits_outlasts_an_instant_without_workers_but_not_five_seconds() {
    let world = World::new();
    world.plugin.register(&["a"], 1);
    world.plugin.make_synchronous();
    let Running {
        delivery_loop,
        seen: _seen,
    } = world.delivery_loop(Some(checkpoint_of("a")));
    let mut delivery_loop = Box::pin(delivery_loop.run());
    // All slots are taken.
    world.plugin.change(|presence| presence.window = 0);
    let mut answer = world.save_and_wait("1");
    run_for(delivery_loop.as_mut(), 10).await;
    // A new generation takes over: its workers are connected, and do not serve yet.
    world.plugin.change(|presence| presence.num_workers = 0);
    run_for(delivery_loop.as_mut(), 10).await;
    assert!(answer.try_recv().is_err());

    for _ in 0..2 {
        world.plugin.change(|presence| presence.is_attended = false);
        run_for(delivery_loop.as_mut(), 4).await;
        assert!(answer.try_recv().is_err());
        world.plugin.change(|presence| presence.is_attended = true);
        run_for(delivery_loop.as_mut(), 4).await;
    }
    world.plugin.change(|presence| presence.is_attended = false);
    run_for(delivery_loop.as_mut(), 6).await;
    let refused = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(refused.info["reason"], "no-worker");
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_kept_before_the_plugin_is_known_lets_the_loop_rest() {
    let world = World::new();
    world
        .consumer_store
        .is_failing
        .store(true, Ordering::Relaxed);
    let Running {
        delivery_loop,
        seen,
    } = world.delivery_loop(None);
    let (reply, replied) = oneshot::channel();
    let order = Command::Order(Order::Pause, reply);
    seen.commands.try_send(order).unwrap_or_else(drop);
    run_for(delivery_loop.run(), 10).await;
    assert!(replied.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_a_hook_that_is_gone_has_not_been_told_of_becomes_dead_letters() {
    let world = World::new();
    for name in ["n1", "n2"] {
        world.save(name);
    }
    world.plugin.register(&["b"], 1);
    let Running {
        delivery_loop,
        seen,
    } = world.delivery_loop(Some(checkpoint_of("a")));
    let mut delivery_loop = Box::pin(delivery_loop.run());
    run_for(delivery_loop.as_mut(), 2).await;
    let state = seen.state();
    assert_eq!((state.dead_letters, state.open, state.lag), (2, 0, 0));
    // Nothing is left for it after the registration without it.
    world.save("n3");
    run_for(delivery_loop.as_mut(), 2).await;
    let state = seen.state();
    assert_eq!((state.dead_letters, state.in_flight), (2, 1));
    assert!(world.consumer_store.consumers.lock()["p"].gone.is_empty());
}

/// Somebody waited for the delivery, so it was taken before its turn.
#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_before_its_turn_is_no_dead_letter_of_a_hook_that_is_gone() {
    let world = World::new();
    for name in ["n1", "n2", "n3"] {
        world.save(name);
    }
    world.plugin.register(&["b"], 1);
    let mut checkpoint = checkpoint_of("a");
    checkpoint.cursor.ahead.insert(2);
    let Running {
        delivery_loop,
        seen,
    } = world.delivery_loop(Some(checkpoint));
    let mut delivery_loop = Box::pin(delivery_loop.run());
    run_for(delivery_loop.as_mut(), 2).await;
    let state = seen.state();
    assert_eq!((state.dead_letters, state.open, state.lag), (2, 0, 0));
    let letters = world.consumer_store.letters.lock();
    let positions: Vec<_> = letters.values().map(|letter| letter.position).collect();
    assert_eq!(positions, [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_is_open_stays_so_while_another_registration_cannot_be_kept() {
    let world = World::new();
    world.plugin.register(&["a"], 0);
    world.save("n1");
    let Running {
        delivery_loop,
        seen,
    } = world.delivery_loop(Some(checkpoint_of("a")));
    let mut delivery_loop = Box::pin(delivery_loop.run());
    run_for(delivery_loop.as_mut(), 2).await;
    assert_eq!((seen.state().open, seen.state().in_flight), (1, 0));

    world
        .consumer_store
        .is_failing
        .store(true, Ordering::Relaxed);
    world.plugin.register(&["a", "b"], 1);
    run_for(delivery_loop.as_mut(), 10).await;
    assert_eq!((seen.state().open, seen.state().skipped), (1, 0));
    assert_eq!(seen.state().state, "unknown", "it is not promised yet");

    world
        .consumer_store
        .is_failing
        .store(false, Ordering::Relaxed);
    run_for(delivery_loop.as_mut(), 2).await;
    assert_eq!((seen.state().open, seen.state().in_flight), (1, 1));
}

/// Gives the actor an order, and returns the state after it.
async fn ordered(
    delivery_loop: &mut Pin<Box<impl Future<Output = ()>>>,
    seen: &Seen,
    order: Order,
) -> Result<ConsumerState, ApiError> {
    let (reply, replied) = oneshot::channel();
    let order = Command::Order(order, reply);
    seen.commands.try_send(order).unwrap_or_else(drop);
    run_for(delivery_loop.as_mut(), 2).await;
    replied.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_counted_right_whatever_is_delivered_again() {
    let world = World::new();
    for name in ["n1", "n2"] {
        world.save(name);
    }
    world.plugin.register(&["b"], 1);
    let Running {
        delivery_loop,
        seen,
    } = world.delivery_loop(Some(checkpoint_of("a")));
    let mut delivery_loop = Box::pin(delivery_loop.run());
    run_for(delivery_loop.as_mut(), 2).await;
    assert_eq!(seen.state().dead_letters, 2);

    // They become dead letters with the same ids once more.
    world.plugin.register(&["a", "b"], 1);
    let rewound = ordered(
        &mut delivery_loop,
        &seen,
        Order::Rewind(Target::Position(0)),
    );
    assert_eq!(rewound.await.unwrap().dead_letters, 2);
    world.plugin.register(&["b"], 0);
    run_for(delivery_loop.as_mut(), 4).await;
    assert_eq!(seen.state().dead_letters, 2);
    assert_eq!(world.consumer_store.letters.lock().len(), 2);

    // What is delivered again is not a dead letter meanwhile.
    world.plugin.register(&["a", "b"], 0);
    run_for(delivery_loop.as_mut(), 2).await;
    let again = Order::Redeliver { from: 1, until: 1 };
    let state = ordered(&mut delivery_loop, &seen, again).await.unwrap();
    assert_eq!(state.dead_letters, 1);
    assert_eq!(world.consumer_store.letters.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_sent_again_and_dies_again_outlasts_a_failing_store() {
    let world = World::new();
    world.save("n1");
    world.plugin.register(&["b"], 1);
    let Running {
        delivery_loop,
        seen,
    } = world.delivery_loop(Some(checkpoint_of("a")));
    let mut delivery_loop = Box::pin(delivery_loop.run());
    run_for(delivery_loop.as_mut(), 2).await;
    assert_eq!(world.consumer_store.letters.lock().len(), 1);

    world.plugin.register(&["a", "b"], 0);
    run_for(delivery_loop.as_mut(), 2).await;
    world
        .consumer_store
        .is_failing
        .store(true, Ordering::Relaxed);
    let resent = ordered(&mut delivery_loop, &seen, Order::Resend(Vec::new())).await;
    assert!(resent.is_err(), "it could not be kept");
    let dropped = seen.state();
    assert_eq!((dropped.dead_letters, dropped.open), (0, 1));

    world
        .consumer_store
        .is_failing
        .store(false, Ordering::Relaxed);
    world.plugin.register(&["b"], 0);
    run_for(delivery_loop.as_mut(), 4).await;
    assert_eq!((seen.state().dead_letters, seen.state().open), (1, 0));
    assert_eq!(world.consumer_store.letters.lock().len(), 1);
}
