//! How consumers survive failures of their actors, stores or clients.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use skytrail_schema::code::Code;
use skytrail_schema::event::EventFilter;
use tokio::time::timeout;

use super::checkpoint_of;
use super::world::World;
use crate::delivery::consumers::messages::Order;
use crate::delivery::consumers::{Consumers, DeliverySettings, LogConsumerOptions};

/// Long enough for anything here.
const ENOUGH: Duration = Duration::from_secs(60);

async fn begun(world: &World) -> Consumers {
    let hooks = Consumers::default();
    let arbiter = actix::Arbiter::current();
    let store = Arc::clone(&world.consumer_store) as _;
    let settings = DeliverySettings::default();
    let begun = hooks.begin(world.env.clone(), store, settings, arbiter);
    begun.await.unwrap();
    hooks
}

fn options() -> LogConsumerOptions {
    LogConsumerOptions {
        filter: EventFilter::default(),
        max_attempts: 3,
        timeout_ms: 1000,
    }
}

#[actix::test]
async fn a_consumer_whose_actor_is_lost_goes_on_from_what_was_kept() {
    let world = World::new();
    world.save("n1");
    world.save("n2");
    let hooks = begun(&world).await;
    hooks.create_consumer("x", options(), 1).await.unwrap();
    let mut worker = hooks.work_for("x", 1).unwrap();
    assert_eq!(worker.next().await.unwrap().position, 2);

    world
        .consumer_store
        .is_broken
        .store(true, Ordering::Relaxed);
    hooks.order("log/x", Order::Pause).await.unwrap_err();
    let sent_away = timeout(ENOUGH, worker.next()).await.unwrap();
    assert!(sent_away.is_none(), "a lost handle gives nobody anything");
    drop(worker);

    world
        .consumer_store
        .is_broken
        .store(false, Ordering::Relaxed);
    let mut worker = hooks.work_for("x", 1).unwrap();
    let again = timeout(ENOUGH, worker.next()).await.unwrap().unwrap();
    assert_eq!(again.position, 2);
    hooks.close().await;
}

#[actix::test]
async fn a_plugin_whose_actor_is_lost_is_told_what_it_has_not_had() {
    let world = World::new();
    let consumers = &world.consumer_store.consumers;
    consumers.lock().insert("p".to_owned(), checkpoint_of("a"));
    world.plugin.register(&["a"], 0);
    world.save("n1");
    let hooks = begun(&world).await;
    world
        .consumer_store
        .is_broken
        .store(true, Ordering::Relaxed);
    hooks.order("p", Order::Pause).await.unwrap_err();
    world
        .consumer_store
        .is_broken
        .store(false, Ordering::Relaxed);

    let state = hooks.order("p", Order::Resume).await.unwrap();
    assert_eq!((state.position, state.lag), (0, 1));
    hooks.close().await;
}

#[actix::test]
async fn a_consumer_that_cannot_be_forgotten_is_there_still() {
    let world = World::new();
    let hooks = begun(&world).await;
    hooks.create_consumer("x", options(), 0).await.unwrap();
    world
        .consumer_store
        .is_failing
        .store(true, Ordering::Relaxed);
    hooks.delete_consumer("x").await.unwrap_err();

    world
        .consumer_store
        .is_failing
        .store(false, Ordering::Relaxed);
    hooks.work_for("x", 1).unwrap();
    hooks.delete_consumer("x").await.unwrap();
    assert!(world.consumer_store.consumers.lock().is_empty());
    let gone = hooks.delete_consumer("x").await.unwrap_err();
    assert_eq!(gone.code, Code::ResourceNotFound);
    hooks.close().await;
}

#[actix::test]
async fn a_consumer_is_forgotten_also_when_the_client_hangs_up() {
    let world = World::new();
    let hooks = begun(&world).await;
    hooks.create_consumer("x", options(), 0).await.unwrap();
    let deletion = hooks.delete_consumer("x").now_or_never();
    assert!(deletion.is_none(), "it is not over at once");
    let over = async {
        while hooks.work_for("x", 1).is_ok() || !world.consumer_store.consumers.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(ENOUGH, over).await.unwrap();
    hooks.close().await;
}
