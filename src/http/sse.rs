//! Server-sent events: an answer that continues.
//!
//! The sender gets a [`Feed`], the client a response with what is put into it. A bounded queue lies
//! between the two, so a slow client holds back only its own sender, and only for 30 s; a sender
//! that must not wait uses [`Feed::try_send`]. The kernel disconnects a client that reads nothing
//! at all (`http/connection`). After some time without events a comment shows that the server is
//! alive. When the server stops, the queued events are still sent, then the answer ends; the client
//! reconnects with `Last-Event-ID`.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use futures_util::stream;
use skytrail_actors::log::TimelinePosition;
use skytrail_schema::code::ApiError;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const PACE: Pace = Pace {
    heartbeat: Duration::from_secs(15),
    send_timeout: Duration::from_secs(30),
};

/// How soon a client should reconnect after its answer has ended.
const RETRY_MS: u32 = 2000;

/// How soon a browser asks again whose page ignores that it was refused.
const RETRY_REFUSED_MS: u32 = 60_000;

/// An event in the form in which it is sent. Encoded once, however many clients it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// Encodes an event. `id` is what a client that reconnects shows as `Last-Event-ID`. Line
    /// breaks are removed from it and from `event`.
    pub fn new(id: Option<&str>, event: &str, data: &str) -> Self {
        let mut text = String::with_capacity(data.len() + event.len() + 48);
        let mut field = |name: &str, value: &str| {
            text.push_str(name);
            text.push_str(": ");
            text.extend(value.chars().filter(|it| !matches!(it, '\r' | '\n' | '\0')));
            text.push('\n');
        };
        if let Some(id) = id {
            field("id", id);
        }
        field("event", event);
        // A reader takes each of the three for the end of a line.
        for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
            field("data", line);
        }
        text.push('\n');
        Self(text.into())
    }
}

/// Why nothing more can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The client has disconnected, or the server stops.
    #[error("the client is gone")]
    Gone,
    /// The queue is full: the client reads too slowly.
    #[error("the client is too slow")]
    TooSlow,
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// The silence after which a comment is sent.
    heartbeat: Duration,
    /// How long a client may leave the queue full before it is disconnected.
    send_timeout: Duration,
}

/// The sending end of the queue. When it is dropped the answer ends after what is queued.
#[derive(Clone, Debug)]
pub struct Feed {
    frames: mpsc::Sender<Frame>,
    send_timeout: Duration,
}

impl Feed {
    /// Sends an event; waits for room while the client reads what was sent before.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(&self, frame: Frame) -> Result<(), SendError> {
        match timeout(self.send_timeout, self.frames.send(frame)).await {
            Ok(sent) => sent.map_err(|_| SendError::Gone),
            Err(_) => Err(SendError::TooSlow),
        }
    }

    /// Sends an event if there is room.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        self.frames.try_send(frame).map_err(|error| match error {
            TrySendError::Full(_) => SendError::TooSlow,
            TrySendError::Closed(_) => SendError::Gone,
        })
    }

    /// Waits until the client has disconnected or the server stops.
    pub async fn gone(&self) {
        self.frames.closed().await;
    }
}

/// Begins an answer with a queue of `queue` events; `stopping` is the server's token.
pub fn open(queue: usize, stopping: CancellationToken) -> (Feed, HttpResponse) {
    open_at(PACE, queue, stopping)
}

fn open_at(pace: Pace, queue: usize, stopping: CancellationToken) -> (Feed, HttpResponse) {
    let (sender, frames) = mpsc::channel(queue.max(1));
    let body = Body {
        frames,
        stopping,
        heartbeat: pace.heartbeat,
        is_begun: false,
    };
    let feed = Feed {
        frames: sender,
        send_timeout: pace.send_timeout,
    };
    let response = head().streaming(stream::unfold(body, |mut body| async {
        let piece = body.next().await?;
        Some((Ok::<_, Infallible>(piece), body))
    }));
    (feed, response)
}

/// Builds an answer that ends after one event, which says why no others follow.
pub fn refusal(Frame(event): &Frame) -> HttpResponse {
    let retry = format!("retry: {RETRY_REFUSED_MS}\n\n");
    head().body([retry.as_bytes(), event].concat())
}

fn head() -> HttpResponseBuilder {
    let mut builder = HttpResponse::Ok();
    builder
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store, no-transform"))
        // Some proxies would buffer the whole answer before they pass it on.
        .insert_header((HeaderName::from_static("x-accel-buffering"), "no"));
    builder
}

/// Returns the position that a reconnecting client has reached: the id of its last event.
pub fn last_event_id(request: &HttpRequest) -> Option<Result<TimelinePosition, ApiError>> {
    let shown = request.headers().get("last-event-id")?.to_str().ok()?;
    let id = Some(shown.trim()).filter(|id| !id.is_empty())?;
    Some(id.parse().map_err(|error| {
        let message = format!("Last-Event-ID: {error}, not {id:?}");
        ApiError::invalid_argument(message, &["Last-Event-ID"])
    }))
}

/// The client's end of the queue.
struct Body {
    frames: mpsc::Receiver<Frame>,
    stopping: CancellationToken,
    heartbeat: Duration,
    is_begun: bool,
}

impl Body {
    /// Returns what is sent next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.is_begun {
            self.is_begun = true;
            // Not empty, so that the head of the answer is sent before the first event.
            return Some(format!("retry: {RETRY_MS}\n\n").into());
        }
        loop {
            let is_open = !self.frames.is_closed();
            tokio::select! {
                biased;
                () = self.stopping.cancelled(), if is_open => self.frames.close(),
                frame = self.frames.recv() => return frame.map(|Frame(bytes)| bytes),
                () = sleep(self.heartbeat) => return Some(Bytes::from_static(b":\n\n")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::MessageBody as _;
    use futures_util::future::poll_fn;
    use proptest::prelude::*;

    use super::*;

    /// Parses events as the standard says; returns their ids, names and data.
    fn read(text: &str) -> Vec<(String, String, String)> {
        let mut events = Vec::new();
        let (mut id, mut name, mut data) = (String::new(), String::new(), None::<String>);
        for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
            if line.is_empty() {
                if let Some(data) = data.take() {
                    events.push((id.clone(), std::mem::take(&mut name), data));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => id = value.to_owned(),
                "event" => name = value.to_owned(),
                "data" => {
                    data = Some(data.map_or(value.to_owned(), |data| data + "\n" + value));
                }
                _ => {}
            }
        }
        events
    }

    async fn next(body: &mut (impl actix_web::body::MessageBody + Unpin)) -> Option<String> {
        let piece = poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_next(cx)).await?;
        let piece = piece.map_err(Into::into).unwrap();
        Some(String::from_utf8(piece.to_vec()).unwrap())
    }

    #[test]
    fn what_is_written_is_read() {
        let frame = |id, data| {
            let Frame(bytes) = Frame::new(id, "change", data);
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        assert_eq!(frame(Some("7"), "{}"), "id: 7\nevent: change\ndata: {}\n\n");
        assert_eq!(frame(None, "a\nb"), "event: change\ndata: a\ndata: b\n\n");
        assert_eq!(
            frame(Some("1\nevent: x"), ""),
            "id: 1event: x\nevent: change\ndata: \n\n"
        );
    }

    #[actix_web::test]
    async fn what_is_queued_goes_out_before_the_answer_ends() {
        let stopping = CancellationToken::new();
        let (feed, response) = open(2, stopping.clone());
        let mut body = response.into_body().boxed();
        assert_eq!(next(&mut body).await.unwrap(), "retry: 2000\n\n");
        let frame = |data| Frame::new(None, "e", data);
        assert_eq!(feed.try_send(frame("1")), Ok(()));
        assert_eq!(feed.try_send(frame("2")), Ok(()));
        assert_eq!(feed.try_send(frame("3")), Err(SendError::TooSlow));
        stopping.cancel();
        assert!(next(&mut body).await.unwrap().contains("data: 1"));
        assert_eq!(feed.try_send(frame("3")), Err(SendError::Gone));
        feed.gone().await;
        assert!(next(&mut body).await.unwrap().contains("data: 2"));
        assert_eq!(next(&mut body).await, None);
    }

    #[actix_web::test]
    async fn silence_is_broken_and_a_full_queue_is_not_waited_for_for_ever() {
        let pace = Pace {
            heartbeat: Duration::from_millis(1),
            send_timeout: Duration::from_millis(1),
        };
        let (feed, response) = open_at(pace, 1, CancellationToken::new());
        let mut body = response.into_body().boxed();
        next(&mut body).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap(), ":\n\n");
        let frame = Frame::new(None, "e", "1");
        assert_eq!(feed.send(frame.clone()).await, Ok(()));
        assert_eq!(feed.send(frame.clone()).await, Err(SendError::TooSlow));
        drop(body);
        assert_eq!(feed.send(frame).await, Err(SendError::Gone));
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_it_was_but_for_its_line_breaks(
            id in "[a-z0-9.]{1,9}",
            data in "[a-z:\" \r\n]{0,30}",
        ) {
            let Frame(bytes) = Frame::new(Some(&id), "e", &data);
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            let lines = data.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(read(&text), vec![(id, "e".to_owned(), lines)]);
        }
    }
}
