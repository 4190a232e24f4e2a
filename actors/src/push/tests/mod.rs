//! Pushes when the parts around them fail, hang or go away.

mod ageing;
mod leaving;
mod notes;
mod notices;
mod world;

use std::pin::pin;

use futures_util::poll;
use skytrail_schema::event::DeviceKind;

use super::PushSelection;
use world::{World, soon};

#[actix::test]
async fn what_is_kept_is_sent_though_nobody_waits_for_it() {
    let mut world = World::start(&[DeviceKind::Ios]);
    let hold = world.outbox.hold().await;
    {
        let users = ["ada".into()];
        let payloads = world.payloads();
        let mut requested = pin!(world.push.to_users(&users, None, &payloads));
        while world.outbox.kept().is_empty() {
            assert!(poll!(requested.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        // The client hangs up.
    }
    drop(hold);
    soon(world.sent.recv()).await;
    soon(world.outbox.until(|kept| kept.is_empty())).await;
}

/// Nor after a crash.
#[actix::test]
async fn what_is_withdrawn_while_it_is_sent_is_not_tried_again() {
    let mut world = World::start(&[DeviceKind::Ios]);
    let [first, second] = [world.senders.script(), world.senders.script()];
    let payloads = world.payloads();
    for user in ["ada", "bob"] {
        let users = [user.into()];
        world.push.to_users(&users, None, &payloads).await.unwrap();
        soon(world.sent.recv()).await;
    }
    let adas = PushSelection {
        device: Some("ada".into()),
        ..PushSelection::default()
    };
    let num_withdrawn = world.push.withdraw(None, &adas).await.unwrap();
    assert_eq!(num_withdrawn, 0, "none that waited");
    let kept = world.outbox.kept();
    assert_eq!(
        Vec::from_iter(kept.iter().map(|it| it.device.as_str())),
        ["bob"]
    );
    for answer in [first, second] {
        answer.send(false).unwrap();
    }
    let state = world.until(|state| state.num_in_flight == 0).await;
    assert_eq!((state.num_queued, state.num_withdrawn), (1, 1));
    world.until(|state| state.num_kept == 1).await;
}
