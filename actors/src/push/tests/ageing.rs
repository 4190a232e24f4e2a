//! Pushes that get too old while they wait.

use std::pin::pin;
use std::time::Duration;

use futures_util::poll;
use skytrail_schema::event::DeviceKind;

use super::super::handle::MAX_AGE;
use super::world::{World, soon};

#[actix::test]
async fn what_gets_too_old_during_an_outage_gives_up_its_room() {
    let world = World::start(&[DeviceKind::Ios]);
    world.senders.refuse(DeviceKind::Ios);
    let payloads = world.payloads();
    let (first, second) = (["ada".into()], ["bob".into()]);
    world.push.to_users(&first, None, &payloads).await.unwrap();
    loop {
        let states = soon(world.push.states()).await.unwrap();
        if states.iter().all(|state| state.is_held) {
            break;
        }
        tokio::task::yield_now().await;
    }
    // The second push has a moment left when it comes to the queue.
    {
        let hold = world.outbox.hold().await;
        let mut requested = pin!(world.push.to_users(&second, None, &payloads));
        while world.outbox.kept().len() < 2 {
            assert!(poll!(requested.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        let age = MAX_AGE - Duration::from_millis(100);
        world.clock.advance(i64::try_from(age.as_micros()).unwrap());
        drop(hold);
        requested.await.unwrap();
    }
    soon(world.outbox.until(|kept| kept.len() == 1)).await;
    let kept = world.outbox.kept();
    assert!(kept.iter().all(|push| push.device.as_str() == "ada"));
    let states = soon(world.push.states()).await.unwrap();
    let figures = |state: &crate::push::PushState| (state.num_expired, state.num_queued);
    assert_eq!(Vec::from_iter(states.iter().map(figures)), [(1, 1)]);
}
