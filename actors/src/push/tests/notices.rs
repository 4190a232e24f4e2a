//! Notices that wait.

use std::sync::Arc;

use skytrail_schema::event::DeviceKind;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::super::sender::Payload;
use super::super::{ListPushes, ListedPush, PushSelection, Waiting};
use super::world::{World, soon};

fn contents(kept: &[Waiting]) -> Vec<&[u8]> {
    let mut contents: Vec<&[u8]> = kept.iter().map(|push| &*push.payload.content).collect();
    contents.sort_unstable();
    contents
}

#[actix::test]
async fn of_the_notices_of_a_subscription_only_the_last_one_waits() {
    let world = World::start(&[DeviceKind::Ios]);
    world.senders.refuse(DeviceKind::Ios);
    world.tell(1, "news").await;
    soon(world.outbox.until(|kept| kept.len() == 1)).await;
    // There is room for fewer.
    for number in 2..=150 {
        world.tell(number, "news").await;
    }
    world.tell(151, "other").await;
    let states = soon(world.push.states()).await.unwrap();
    let queued: Vec<usize> = states.iter().map(|state| state.num_queued).collect();
    assert_eq!(queued, [2]);
    world.push.leave().await;
    let states = soon(world.push.states()).await.unwrap();
    let num_kept: Vec<u64> = states.iter().map(|state| state.num_kept).collect();
    assert_eq!(num_kept, [2]);
    assert_eq!(contents(&world.outbox.kept()), [&b"150"[..], b"151"]);
}

#[actix::test]
async fn a_notice_that_fails_is_not_sent_after_a_later_one() {
    let mut world = World::start(&[DeviceKind::Ios]);
    let first = world.senders.script();
    world.tell(1, "news").await;
    soon(world.sent.recv()).await;
    world.tell(2, "news").await;
    world.tell(3, "news").await;
    first.send(false).unwrap();
    let is_idle = |num_pushes: usize| num_pushes == 0;
    world
        .until(|state| is_idle(state.num_queued + state.num_in_flight) && state.num_sent > 0)
        .await;
    assert_eq!(world.senders.accepted(), ["3"]);
    soon(world.outbox.until(|kept| kept.is_empty())).await;
}

#[actix::test]
async fn a_notice_that_comes_while_one_is_in_flight_takes_its_place_if_that_fails() {
    let mut world = World::start(&[DeviceKind::Ios]);
    let (first, again) = (world.senders.script(), world.senders.script());
    world.tell(1, "news").await;
    soon(world.sent.recv()).await;
    first.send(false).unwrap();
    world.until(|state| state.is_held).await;
    soon(world.sent.recv()).await;
    world.tell(2, "news").await;
    world.tell(3, "news").await;
    again.send(false).unwrap();
    let state = world.until(|state| state.num_in_flight == 0).await;
    assert_eq!(state.num_queued, 1);
    soon(world.outbox.until(|kept| contents(kept) == [b"3"])).await;
}

/// One may follow while the first is in flight, and it is sent as it would have been.
#[actix::test]
async fn a_notice_that_comes_while_one_is_in_flight_follows_it() {
    let mut world = World::start(&[DeviceKind::Ios]);
    let first = world.senders.script();
    world.tell(1, "news").await;
    soon(world.sent.recv()).await;
    for number in 2..=150 {
        world.tell(number, "news").await;
    }
    first.send(true).unwrap();
    world.until(|state| state.num_sent == 2).await;
    assert_eq!(world.senders.accepted(), ["1", "150"]);
    let state = world.until(|state| state.num_in_flight == 0).await;
    assert_eq!((state.num_queued, state.num_kept), (0, 0));
}

fn kept(number: u64, subscription: &str) -> Waiting {
    Waiting {
        id: Uuid::from_u128(number.into()),
        device: "phone".into(),
        user: None,
        kind: DeviceKind::Ios,
        subscription: Some(subscription.to_owned()),
        payload: Arc::new(Payload::new(number.to_string().into(), Vec::new())),
        since: Timestamp::from_micros(0),
    }
}

/// A crash can leave two of one subscription.
#[actix::test]
async fn after_a_start_only_the_last_notice_of_a_subscription_is_sent() {
    let waiting = vec![kept(1, "news"), kept(2, "other"), kept(3, "news")];
    let world = World::resuming(&[DeviceKind::Ios], waiting);
    soon(world.outbox.until(|kept| kept.is_empty())).await;
    assert_eq!(world.senders.accepted(), ["2", "3"]);
}

#[actix::test]
async fn a_notice_takes_the_place_of_one_from_before_the_start() {
    let mut world = World::resuming(&[DeviceKind::Ios], vec![kept(1, "news")]);
    let first = world.senders.script();
    soon(world.sent.recv()).await;
    world.tell(2, "news").await;
    first.send(false).unwrap();
    soon(world.outbox.until(|kept| contents(kept) == [b"2"])).await;
    let state = world.until(|state| state.num_in_flight == 0).await;
    assert_eq!((state.num_queued, state.num_kept), (1, 1));
    let all = ListPushes {
        selection: PushSelection::default(),
        after: None,
        limit: 10,
    };
    let listed = world.push.list(None, all).await.unwrap();
    let shown = |push: &ListedPush| (push.attempts, push.failure.clone());
    let why_it_waits = Some("of the test".to_owned());
    assert_eq!(
        Vec::from_iter(listed.iter().map(shown)),
        [(0, why_it_waits)]
    );
}
