//! What every answer carries: request id, server, CORS. Preflights end here.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderName, HeaderValue, SERVER,
};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, web};
use uuid::Uuid;

use crate::services::Services;

/// What v1's clients expect to talk to.
const SERVER_NAME: &str = "Skygear Server/1.7.3";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-skygear-request-id");

/// The id of the request under way.
#[derive(Clone, Copy, Debug)]
pub struct RequestId(pub Uuid);

/// Answers preflights, and puts the headers of every answer on the others.
///
/// # Errors
/// What the rest of the door fails with.
pub async fn frame(
    services: web::Data<Services>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = Uuid::new_v4();
    let asked = |name: HeaderName| request.headers().get(name).cloned();
    let (method, headers) = (
        asked(ACCESS_CONTROL_REQUEST_METHOD),
        asked(ACCESS_CONTROL_REQUEST_HEADERS),
    );
    let mut response = if request.method() == Method::OPTIONS {
        request.into_response(HttpResponse::Ok().finish())
    } else {
        request.extensions_mut().insert(RequestId(id));
        next.call(request).await?.map_into_boxed_body()
    };
    let out = response.headers_mut();
    out.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        out.insert(REQUEST_ID, id);
    }
    allow_origin(out, &services.settings.cors_host, method, headers);
    Ok(response)
}

fn allow_origin(
    out: &mut HeaderMap,
    origin: &str,
    method: Option<HeaderValue>,
    headers: Option<HeaderValue>,
) {
    let Ok(origin) = HeaderValue::from_str(origin) else {
        return;
    };
    out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    out.insert(
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    if let Some(method) = method {
        out.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
    }
    if let Some(headers) = headers {
        out.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers);
    }
}
