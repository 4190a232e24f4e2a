//! `/live`: live queries over a WebSocket, many over one socket.
//!
//! The caller's identity is checked when the socket is opened, and again for each query. A client's
//! mistakes are answered with an `error`; the socket stays open.

use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{CloseCode, CloseReason, Session};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use skytrail_actors::live::{Connected, EndReason, Ended, ListenerId, Subscribe};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::json;

use super::incoming::{Incoming, TextPings};
use super::outgoing::Outgoing;
use super::seats::Seat;
use super::upgrade::upgrade;
use crate::http::live::{Admitted, End, Shown, TOO_SLOW, error_frame, read_from, read_query};
use crate::services::Services;

/// The size limit of a message.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// The length limit of a query's name.
const MAX_NAME_BYTES: usize = 256;
/// How often the server pings the client.
const PING_EVERY: Duration = Duration::from_secs(30);
/// What a page pings with.
const PINGS: TextPings = TextPings {
    is_ping,
    pong: r#"{"event":"pong"}"#,
};
/// How long a client that is disconnected may take to receive the reason.
const FAREWELL: Duration = Duration::from_secs(10);

/// Upgrades a request.
///
/// # Errors
/// Not a WebSocket upgrade.
pub fn open(
    request: &HttpRequest,
    body: web::Payload,
    services: Arc<Services>,
    (shown, admitted, seat): (Shown, Admitted, Seat),
) -> actix_web::Result<HttpResponse> {
    let (response, session, stream) = upgrade(request, body, &[], MAX_MESSAGE_BYTES)?;
    let incoming = Incoming::new(stream, session.clone());
    let incoming = incoming.pinging(PING_EVERY).answering(PINGS);
    let Connected { id, inbox, ended } = services
        .live
        .connect(admitted.audience, admitted.credential);
    let socket = Socket {
        services,
        shown,
        session,
        id,
    };
    actix_web::rt::spawn(async move {
        socket.serve(incoming, (admitted.end, ended)).await;
        drop(seat);
    });
    Ok(response.map_body(|_, said| BoxBody::new(Outgoing::new(inbox, said))))
}

/// Upgrades a request, only to tell a page why it is refused: a page cannot read an answer.
///
/// # Errors
/// Not a WebSocket upgrade.
pub fn refuse(
    request: &HttpRequest,
    body: web::Payload,
    refused: ApiError,
) -> actix_web::Result<HttpResponse> {
    let (mut response, session, stream) = upgrade(request, body, &[], MAX_MESSAGE_BYTES)?;
    response.extensions_mut().insert(refused.code);
    actix_web::rt::spawn(async move {
        let farewell = say_farewell(session, EndReason::Refused(refused));
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        // Held until then, as that of a socket that is served.
        drop(stream);
    });
    Ok(response)
}

async fn say_farewell(mut session: Session, ending: EndReason) {
    if let EndReason::Refused(error) = &ending {
        let _ = session.text(error_frame(error)).await;
    }
    let _ = session.close(Some(reason_of(ending))).await;
}

/// A socket that is being served.
struct Socket {
    services: Arc<Services>,
    shown: Shown,
    session: Session,
    id: ListenerId,
}

/// Why a socket is no longer served.
enum DisconnectReason {
    /// The client has disconnected, closes the socket, or made a mistake.
    Left(Option<CloseReason>),
    /// The server ends it.
    Ended(EndReason),
}

impl Socket {
    /// Serves until the client leaves or is disconnected, whatever is under way then.
    async fn serve(mut self, mut incoming: Incoming, (end, mut ended): (End, Ended)) {
        let services = Arc::clone(&self.services);
        let leaving = tokio::select! {
            answer = self.exchange(&mut incoming) => DisconnectReason::Left(answer),
            ending = ended.wait() => DisconnectReason::Ended(ending),
            refusal = end.wait(&services) => DisconnectReason::Ended(EndReason::Refused(refusal)),
            () = services.stopping.cancelled() => DisconnectReason::Ended(EndReason::Stopping),
        };
        self.services.live.disconnect(self.id);
        let farewell = async {
            match leaving {
                DisconnectReason::Left(answer) => drop(self.session.close(answer).await),
                DisconnectReason::Ended(ending) => say_farewell(self.session, ending).await,
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    /// Carries out messages, in order, until the client leaves; returns the answer to that.
    async fn exchange(&mut self, incoming: &mut Incoming) -> Option<CloseReason> {
        loop {
            match incoming.next().await {
                Ok(message) => incoming.meanwhile(self.react(&message.text())).await.ok()?,
                Err(ending) => return ending.answer(MAX_MESSAGE_BYTES),
            }
        }
    }

    /// Carries out a message; if that fails, says so. A client that does not read blocks this.
    async fn react(&mut self, text: &str) -> Result<(), actix_ws::Closed> {
        let mut name = None;
        let Err(error) = self.obey(text, &mut name).await else {
            return Ok(());
        };
        let error = error.to_wire();
        let frame = match name {
            Some(name) => json!({"id": name, "event": "error", "error": error}),
            None => json!({"event": "error", "error": error}),
        };
        self.session.text(frame.to_string()).await
    }

    async fn obey(&self, text: &str, named: &mut Option<String>) -> Result<(), ApiError> {
        let services = &self.services;
        let limits = &services.settings.limits;
        *named = name_in(text);
        limits.check_json(text.as_bytes())?;
        let bad = |text: &str| ApiError::new(Code::BadRequest, text);
        let body = json::from_str(text).map_err(|error| bad(&error.to_string()))?;
        let Json::Object(body) = body else {
            return Err(bad("expected an object"));
        };
        let action = body.get("action").and_then(Json::as_str);
        let Some(name) = named.as_deref() else {
            let text = format!("id must be a string of 1 to {MAX_NAME_BYTES} bytes");
            return Err(ApiError::invalid_argument(text, &["id"]));
        };
        match action {
            Some("live:subscribe") => {
                let checked = self.shown.pass(services, &body).await?;
                let query = read_query(services, &body, checked.scope)?;
                services.live.subscribe(
                    self.id,
                    Subscribe {
                        name: name.into(),
                        query,
                        from: read_from(&body)?,
                    },
                )
            }
            Some("live:unsubscribe") => {
                if services.live.unsubscribe(self.id, name) {
                    return Ok(());
                }
                let text = format!("there is no live query {name:?}");
                Err(ApiError::invalid_argument(text, &["id"]))
            }
            _ => {
                let text = "action must be live:subscribe, live:unsubscribe or live:ping";
                Err(ApiError::invalid_argument(text, &["action"]))
            }
        }
    }
}

/// Whether a message is the ping of a page.
fn is_ping(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Asked {
        action: String,
    }
    // A list would be read as the members in order.
    let is_object = text.trim_ascii_start().starts_with('{');
    is_object && json::typed::<Asked>(text).is_ok_and(|asked| asked.action == "live:ping")
}

/// Returns the name of the query that a message is about, also if the rest makes no sense or is nested
/// too deeply: the error has to name it.
fn name_in(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let named: Named = json::typed(text).ok()?;
    Some(named.id).filter(|id| (1..=MAX_NAME_BYTES).contains(&id.len()))
}

fn reason_of(ending: EndReason) -> CloseReason {
    let (code, text) = match ending {
        EndReason::TooSlow => (CloseCode::Policy, TOO_SLOW.to_owned()),
        EndReason::Refused(error) => (CloseCode::Policy, error.message),
        EndReason::Stopping => (CloseCode::Away, "the server is stopping".to_owned()),
    };
    // A close frame holds 123 bytes of text.
    let description = text.chars().take(100).collect();
    CloseReason {
        code,
        description: Some(description),
    }
}
