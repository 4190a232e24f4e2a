//! What the outbox could not be told.

use std::sync::atomic::Ordering;

use skytrail_schema::event::DeviceKind;

use super::world::{World, soon};

#[actix::test]
async fn a_push_that_could_not_be_forgotten_is_so_later() {
    let mut world = World::start(&[DeviceKind::Ios]);
    world.outbox.num_forgets_to_fail.store(1, Ordering::SeqCst);
    let payloads = world.payloads();
    let users = ["ada".into()];
    world.push.to_users(&users, None, &payloads).await.unwrap();
    soon(world.sent.recv()).await;
    soon(world.outbox.until(|kept| kept.is_empty())).await;
    assert_eq!(world.outbox.num_forgets_to_fail.load(Ordering::SeqCst), 0);
}
