//! A server that stops.

use skytrail_schema::event::DeviceKind;

use super::world::{World, device, soon};

#[actix::test]
async fn a_service_that_hangs_keeps_no_notice_of_another_from_being_kept() {
    const KINDS: [DeviceKind; 3] = [DeviceKind::Ios, DeviceKind::Android, DeviceKind::Web];
    for hanging in KINDS {
        let mut world = World::start(&KINDS);
        world.senders.hang(hanging);
        let notice = world.push.notice(1, "news");
        let one = world
            .push
            .post(vec![device("d0", hanging)], &notice, Some("news"));
        one.await.unwrap();
        assert_eq!(soon(world.sent.recv()).await, Some(hanging));
        let others: Vec<_> = KINDS.into_iter().filter(|kind| *kind != hanging).collect();
        for kind in &others {
            world.senders.refuse(*kind);
            for id in ["d1", "d2"] {
                let posted = world
                    .push
                    .post(vec![device(id, *kind)], &notice, Some("news"));
                posted.await.unwrap();
            }
            // The first is kept because it failed, the second waits.
            soon(
                world
                    .outbox
                    .until(|kept| kept.iter().any(|it| it.kind == *kind)),
            )
            .await;
        }
        let push = world.push.clone();
        let leaving = actix::spawn(async move { push.leave().await });
        soon(world.outbox.until(|kept| kept.len() == 2 * others.len())).await;
        leaving.abort();
    }
}
