//! What every answer carries: request id, server name, CORS headers. Preflights are answered here.

use std::sync::Arc;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, SERVER,
};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, web};
use skytrail_schema::code::{ApiError, Code};
use uuid::Uuid;

use super::connection::{Answer, Busy, Connection};
use super::error;
use super::trace::{Trace, Watch};
use crate::services::Services;

/// The server name that v1's clients expect.
const SERVER_NAME: &str = "Skygear Server/1.7.3";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-skygear-request-id");

/// Returns the trace of a request in flight, which holds its id.
pub fn trace_of(request: &HttpRequest) -> Arc<Trace> {
    let trace = request.extensions().get::<Arc<Trace>>().cloned();
    trace.unwrap_or_else(|| Trace::new(Uuid::now_v7()))
}

/// Answers preflights, adds the common headers to all other answers, and follows each request to
/// its end.
///
/// # Errors
/// The errors of the inner services.
pub async fn frame(
    services: web::Data<Services>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<Answer>, Error> {
    let trace = Trace::new(Uuid::now_v7());
    let watch = Watch::begin(services.clone().into_inner(), Arc::clone(&trace));
    let busy = Busy::begin(request.conn_data::<Connection>());
    let is_preflight = request.method() == Method::OPTIONS;
    let origins = &services.settings.origins;
    let mut response = if is_preflight {
        request.into_response(HttpResponse::Ok().finish())
    } else if let Err(refused) = origins.check_socket(request.headers()) {
        request.into_response(error::failure(&refused))
    } else {
        request.extensions_mut().insert(Arc::clone(&trace));
        enveloped(next.call(request).await?.map_into_boxed_body())
    };
    let request = response.request().clone();
    let headers = request.headers();
    let out = response.headers_mut();
    out.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
    if let Ok(id) = HeaderValue::from_str(&trace.id.to_string()) {
        out.insert(REQUEST_ID, id);
    }
    origins.allow(headers, out);
    let echoed = [
        (ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_ALLOW_METHODS),
        (ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_ALLOW_HEADERS),
    ];
    for (asks, answers) in echoed {
        if let Some(value) = headers.get(asks) {
            out.insert(answers, value.clone());
        }
    }
    let pattern = response.request().match_pattern();
    let route = match (is_preflight, pattern.as_deref()) {
        (true, _) => "preflight",
        (false, pattern) => pattern.unwrap_or("unmatched"),
    };
    let code = response.response().extensions().get::<Code>().copied();
    watch.end(route, response.status().as_u16(), code);
    Ok(response.map_body(|_, body| Answer::new(body, busy, &services.door)))
}

/// Puts errors that the web framework itself returns into the envelope.
fn enveloped(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let Some(refused) = response.response().error() else {
        return response;
    };
    let code = match response.status().as_u16() {
        500.. => Code::UnexpectedError,
        404 => Code::UndefinedOperation,
        _ => Code::BadRequest,
    };
    let error = ApiError::new(code, refused.to_string()).with_status(response.status().as_u16());
    let (request, _) = response.into_parts();
    ServiceResponse::new(request, error::failure(&error))
}
