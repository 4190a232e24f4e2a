//! Delivery, order, limits, and listeners that do not read.

use actix::{Actor, Addr};
use serde_json::{Value as Json, json};

use super::*;

const QUEUE: usize = 16;

fn encode(channel: &str, data: &RawValue) -> Bytes {
    format!(r#"{{"channel":"{channel}","data":{data}}}"#).into()
}

fn start() -> Addr<Hub> {
    let settings = HubSettings {
        queue_messages: QUEUE,
        queue_bytes: 1 << 20,
        max_channels: 2,
        encode,
    };
    Hub::new(settings).start()
}

fn channel(id: ListenerId, name: &str) -> Subscribe {
    Subscribe {
        id,
        channel: name.to_owned(),
    }
}

fn message(number: usize) -> Publish {
    Publish::new(vec!["c".to_owned(), "nobody".to_owned()], &json!(number)).unwrap()
}

#[actix::test]
async fn listeners_hear_their_channels_once_and_in_order() {
    let hub = start();
    let mut listener = hub.send(Connect).await.unwrap();
    for _ in 0..2 {
        let heard = hub.send(channel(listener.id, "c")).await.unwrap();
        heard.unwrap();
    }
    for number in 0..5 {
        hub.send(message(number)).await.unwrap();
    }
    for number in 0..5 {
        let frame = listener.frames.next().await.unwrap();
        let frame: Json = serde_json::from_slice(&frame).unwrap();
        assert_eq!(frame, json!({"channel": "c", "data": number}));
    }
    hub.send(Unsubscribe {
        id: listener.id,
        channel: "c".to_owned(),
    })
    .await
    .unwrap();
    hub.send(message(9)).await.unwrap();
    let state = hub.send(GetHubState).await.unwrap().0;
    assert_eq!((state.num_channels, state.num_delivered), (0, 5));
    hub.send(Disconnect(listener.id)).await.unwrap();
    assert_eq!(listener.frames.next().await, None);
}

#[actix::test]
async fn a_message_is_encoded_once_for_all() {
    let hub = start();
    let mut ears = Vec::new();
    for _ in 0..3 {
        let listener = hub.send(Connect).await.unwrap();
        let heard = hub.send(channel(listener.id, "c")).await.unwrap();
        heard.unwrap();
        ears.push(listener.frames);
    }
    hub.send(message(1)).await.unwrap();
    let mut places = Vec::new();
    for ear in &mut ears {
        places.push(ear.next().await.unwrap().as_ptr());
    }
    assert!(places.windows(2).all(|pair| pair[0] == pair[1]));
}

#[actix::test]
async fn a_listener_that_does_not_read_is_dropped_and_delays_nobody() {
    let hub = start();
    let mut slow = hub.send(Connect).await.unwrap();
    let mut quick = hub.send(Connect).await.unwrap();
    for id in [slow.id, quick.id] {
        hub.send(channel(id, "c")).await.unwrap().unwrap();
    }
    for number in 0..=QUEUE {
        hub.send(message(number)).await.unwrap();
        assert!(quick.frames.next().await.is_some());
    }
    let state = hub.send(GetHubState).await.unwrap().0;
    assert_eq!((state.num_listeners, state.num_dropped), (1, 1));
    assert!(slow.dropped.await.is_err());
    assert_eq!(slow.frames.next().await, None, "nothing is kept for it");
}

#[actix::test]
async fn a_listener_hears_so_many_channels() {
    let hub = start();
    let listener = hub.send(Connect).await.unwrap();
    for name in ["one", "two", "two"] {
        let heard = hub.send(channel(listener.id, name)).await.unwrap();
        heard.unwrap();
    }
    let refused = hub.send(channel(listener.id, "three")).await.unwrap();
    assert_eq!(refused.unwrap_err().max, 2);
    hub.send(Unsubscribe {
        id: listener.id,
        channel: "one".to_owned(),
    })
    .await
    .unwrap();
    let heard = hub.send(channel(listener.id, "three")).await.unwrap();
    heard.unwrap();
}

#[actix::test]
async fn what_is_announced_waits_for_who_is_away() {
    let hub = start();
    let announce = |number: usize| {
        let announce = Announce::new("c".to_owned(), "key".to_owned(), &json!(number));
        hub.send(announce.unwrap())
    };
    announce(1).await.unwrap();
    announce(2).await.unwrap();
    let mut ears = Vec::new();
    for _ in 0..2 {
        let listener = hub.send(Connect).await.unwrap();
        let heard = hub.send(channel(listener.id, "c")).await.unwrap();
        heard.unwrap();
        ears.push(listener);
    }
    announce(3).await.unwrap();
    let data = |number: usize| encode("c", &serde_json::value::to_raw_value(&number).unwrap());
    let [first, second] = &mut ears[..] else {
        panic!("there are two")
    };
    assert_eq!(first.frames.next().await, Some(data(2)));
    assert_eq!(first.frames.next().await, Some(data(3)));
    assert_eq!(second.frames.next().await, Some(data(2)));
    assert_eq!(second.frames.next().await, Some(data(3)));
}

#[actix::test]
async fn what_is_announced_waits_for_one_whose_connection_only_looks_alive() {
    let hub = start();
    let announce = |number: usize| {
        let announce = Announce::new("c".to_owned(), "key".to_owned(), &json!(number));
        hub.send(announce.unwrap())
    };
    let data = |number: usize| encode("c", &serde_json::value::to_raw_value(&number).unwrap());
    let mut vanished = hub.send(Connect).await.unwrap();
    let hear = |id| hub.send(channel(id, "c"));
    hear(vanished.id).await.unwrap().unwrap();
    announce(1).await.unwrap();
    let mut back = hub.send(Connect).await.unwrap();
    hear(back.id).await.unwrap().unwrap();
    assert_eq!(back.frames.next().await, Some(data(1)));
    // Over the same connection nothing is told twice.
    hub.send(Unsubscribe {
        id: vanished.id,
        channel: "c".to_owned(),
    })
    .await
    .unwrap();
    hear(vanished.id).await.unwrap().unwrap();
    announce(2).await.unwrap();
    assert_eq!(vanished.frames.next().await, Some(data(1)));
    assert_eq!(vanished.frames.next().await, Some(data(2)));
}
