//! Requests that plugins answer: handlers, which have paths of their own.
//!
//! The plugin receives the request as it is ([`request`]) and answers with status, head and body
//! ([`answer`]); key and token are checked here. Unlike the body of an action, this body is plain
//! bytes.

mod answer;
mod request;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Map;
use skytrail_actors::context::RequestId;
use skytrail_actors::plugin::{CallContext, Handler, Lineage, PluginRequest};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::Origin;
use tokio::time::Instant;

use super::checks::{self, CheckedRequest};
use super::deadline::within;
use super::frame::trace_of;
use super::router::context;
use super::shown::{KEY, Shown, TOKEN};
use super::{body, contents, error};
use crate::services::Services;

/// Lets a plugin answer a request. `path` is decoded.
pub(super) async fn serve(
    services: &Arc<Services>,
    handler: &Handler,
    path: &str,
    (request, payload): (HttpRequest, web::Payload),
) -> HttpResponse {
    let _running = services.running.token();
    // All handlers are counted under one name: their own names are chosen by plugins.
    trace_of(&request).name("handler", &handler.name);
    let answered = ask(services, handler, path, (&request, payload)).await;
    answered.unwrap_or_else(|refused| error::failure(&refused))
}

async fn ask(
    services: &Arc<Services>,
    handler: &Handler,
    path: &str,
    (request, payload): (&HttpRequest, web::Payload),
) -> Result<HttpResponse, ApiError> {
    let mut context = context(RequestId::own(trace_of(request).id), Origin::Api, services);
    context.tag = "plugin";
    let (key, token) = (
        KEY.in_head_or_query(request),
        TOKEN.in_head_or_query(request),
    );
    let shown = [&key, &token].map(|shown| shown.as_deref().unwrap_or_default());
    contents::log_head(services, request, context.request.id(), shown);
    let nothing = Map::new();
    let shown = Shown::of(request, key, token);
    let mut checked = CheckedRequest::new(services, &nothing, shown, context);
    let checks = checks::of_point(handler.key_required, handler.user_required);
    // Checked before the body is read: a client that may not ask must not take up memory with its
    // body.
    let time = (
        checked.context.deadline,
        checked.context.commit_gate.clone(),
    );
    within(time, checked.pass(checks)).await?;
    let mut context = checked.context;

    let settings = &services.settings;
    let bytes = body::collect(request, payload, &settings.limits, settings.body_timeout).await?;
    // The time that the body took does not count against the deadline.
    context.deadline = settings.response_timeout.map(|time| Instant::now() + time);
    let request = PluginRequest {
        plugin: Arc::clone(&handler.plugin),
        kind: "handler",
        name: handler.name.clone(),
        param: request::param(request, path, &bytes),
        context: Some(CallContext::of(&context)),
        timeout: handler.timeout,
        deadline: context.deadline,
        lineage: Lineage::of(&context),
    };
    drop(bytes);
    let time = (context.deadline, context.commit_gate);
    let result = within(time, services.plugins.call(request)).await?;
    let answer = answer::parse(result).inspect_err(|error| {
        let (plugin, why) = (&handler.plugin, &error.message);
        tracing::warn!(%plugin, handler = handler.name, why, "a handler's answer cannot be read");
    })?;
    Ok(answer.into_response())
}
