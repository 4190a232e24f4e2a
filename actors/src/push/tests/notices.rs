//! Notices that wait.

use skytrail_schema::event::DeviceKind;

use super::world::{World, device, soon};

#[actix::test]
async fn of_the_notices_of_a_subscription_only_the_last_one_waits() {
    let world = World::start(&[DeviceKind::Ios]);
    world.senders.refuse(DeviceKind::Ios);
    let tell = async |number: u64, subscription| {
        let notice = world.push.notice(number, subscription);
        let recipient = vec![device("phone", DeviceKind::Ios)];
        world
            .push
            .post(recipient, &notice, Some(subscription))
            .await
    };
    tell(1, "news").await.unwrap();
    soon(world.outbox.until(|kept| kept.len() == 1)).await;
    // There is room for fewer.
    for number in 2..=150 {
        tell(number, "news").await.unwrap();
    }
    tell(151, "other").await.unwrap();
    let states = soon(world.push.states()).await.unwrap();
    let queued: Vec<usize> = states.iter().map(|state| state.num_queued).collect();
    assert_eq!(queued, [2]);
    world.push.leave().await;
    let states = soon(world.push.states()).await.unwrap();
    let num_kept: Vec<u64> = states.iter().map(|state| state.num_kept).collect();
    assert_eq!(num_kept, [2]);
    let kept = world.outbox.kept();
    let mut kept: Vec<&[u8]> = kept.iter().map(|push| &*push.payload.content).collect();
    kept.sort_unstable();
    assert_eq!(kept, [&b"150"[..], b"151"]);
}
