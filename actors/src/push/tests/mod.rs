//! Pushes when the parts around them fail, hang or go away.

mod ageing;
mod leaving;
mod notes;
mod notices;
mod world;

use std::pin::pin;

use futures_util::poll;
use skytrail_schema::event::DeviceKind;

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
