//! Encodes a text as a WebSocket frame, once for all listeners.
//!
//! Frames from a server are not masked, so they are the same for every client.

use actix_web::web::Bytes;
use serde_json::value::RawValue;

/// The head byte of a text message's last frame.
const TEXT: u8 = 0x81;
/// The longest head of a frame: its kind, and the payload's length in 9 bytes.
const MAX_HEAD: usize = 10;

/// Builds the frame of a text.
pub fn of_text(text: &str) -> Bytes {
    let mut bytes = Vec::with_capacity(MAX_HEAD + text.len());
    bytes.resize(MAX_HEAD, 0);
    bytes.extend_from_slice(text.as_bytes());
    finish(bytes)
}

/// Builds the frame of a published message, `{"channel", "data"}`.
pub fn of_message(channel: &str, data: &RawValue) -> Bytes {
    let data = data.get();
    let mut bytes = Vec::with_capacity(MAX_HEAD + channel.len() + data.len() + 32);
    bytes.resize(MAX_HEAD, 0);
    bytes.extend_from_slice(br#"{"channel":"#);
    // A string can always be written as JSON, and writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut bytes, channel);
    bytes.extend_from_slice(br#","data":"#);
    bytes.extend_from_slice(data.as_bytes());
    bytes.push(b'}');
    finish(bytes)
}

/// Writes the head directly before the payload, at the end of the space reserved for it.
fn finish(mut bytes: Vec<u8>) -> Bytes {
    let len = bytes.len() - MAX_HEAD;
    let mut head = vec![TEXT];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ 0..126), _) => head.push(short),
        (_, Ok(medium)) => {
            head.push(126);
            head.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let start = MAX_HEAD - head.len();
    if let Some(place) = bytes.get_mut(start..MAX_HEAD) {
        place.copy_from_slice(&head);
    }
    Bytes::from(bytes).slice(start..)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use serde_json::{Value as Json, json};
    use tokio_tungstenite::tungstenite::WebSocket;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    /// Decodes a frame as a client does.
    fn read(frame: &Bytes) -> Json {
        let mut client =
            WebSocket::from_raw_socket(Cursor::new(frame.to_vec()), Role::Client, None);
        let text = client.read().unwrap().into_text().unwrap();
        serde_json::from_str(&text).unwrap()
    }

    proptest! {
        #[test]
        fn clients_read_what_was_published(
            channel in ".{1,40}",
            len in prop_oneof![0_usize..300, 65_400_usize..65_600, Just(200_000)],
        ) {
            let data = json!({"text": "x".repeat(len), "ключ": [1, null]});
            let raw = serde_json::value::to_raw_value(&data).unwrap();
            let expected = json!({"channel": channel, "data": data});
            prop_assert_eq!(&read(&of_message(&channel, &raw)), &expected);
            prop_assert_eq!(read(&of_text(&expected.to_string())), expected);
        }
    }
}
