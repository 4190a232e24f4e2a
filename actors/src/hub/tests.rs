//! Delivery, order, and listeners that do not read.

use serde_json::json;

use super::*;

fn channel(id: ListenerId) -> Subscribe {
    Subscribe {
        id,
        channel: "c".to_owned(),
    }
}

fn message(number: usize) -> Publish {
    Publish {
        channels: vec!["c".to_owned(), "nobody".to_owned()],
        data: json!(number),
    }
}

#[actix::test]
async fn listeners_hear_their_channels_once_and_in_order() {
    let hub = Hub::default().start();
    let mut listener = hub.send(Connect).await.unwrap();
    hub.send(channel(listener.id)).await.unwrap();
    hub.send(channel(listener.id)).await.unwrap();
    for number in 0..5 {
        hub.send(message(number)).await.unwrap();
    }
    for number in 0..5 {
        let frame: Json = serde_json::from_str(&listener.frames.recv().await.unwrap()).unwrap();
        assert_eq!(frame, json!({"channel": "c", "data": number}));
    }
    hub.send(Unsubscribe {
        id: listener.id,
        channel: "c".to_owned(),
    })
    .await
    .unwrap();
    hub.send(message(9)).await.unwrap();
    assert!(listener.frames.try_recv().is_err());
    assert_eq!(hub.send(GetHubState).await.unwrap().0.num_channels, 0);
}

#[actix::test]
async fn a_listener_that_does_not_read_is_dropped_and_delays_nobody() {
    let hub = Hub::default().start();
    let mut slow = hub.send(Connect).await.unwrap();
    let mut quick = hub.send(Connect).await.unwrap();
    hub.send(channel(slow.id)).await.unwrap();
    hub.send(channel(quick.id)).await.unwrap();
    for number in 0..=LISTENER_QUEUE {
        hub.send(message(number)).await.unwrap();
        assert!(quick.frames.recv().await.is_some());
    }
    let state = hub.send(GetHubState).await.unwrap().0;
    assert_eq!((state.num_listeners, state.num_dropped), (1, 1));
    for _ in 0..LISTENER_QUEUE {
        assert!(slow.frames.recv().await.is_some());
    }
    assert!(
        slow.frames.recv().await.is_none(),
        "the end tells it that it was dropped"
    );
}
