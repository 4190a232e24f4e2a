//! Finds whom a request is for, a plugin's handler or an action, and runs actions.

use std::sync::Arc;

use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, web};
use async_trait::async_trait;
use serde_json::{Map, Value as Json, json};
use skytrail_actors::context::{RequestContext, RequestId};
use skytrail_actors::plugin::{
    ApiCaller, ApiReply, ExtensionPoints, Lambda, Lineage, PluginCall, Route,
};
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::Origin;
use tokio::time::Instant;
use uuid::Uuid;

use super::checks::{self, CheckedRequest};
use super::deadline::within;
use super::frame::trace_of;
use super::remote::Remote;
use super::reply::Outcome;
use super::server::unmatched;
use super::shown::{KEY, Shown, TOKEN};
use super::trace::{Trace, Watch};
use super::{body, contents, error, handler, path, sandbox};
use crate::action::{self, Action, Call};
use crate::audit::{AuditReporter, Source};
use crate::services::Services;

/// Answers a request by the plugin whose handler has its path, or else by an action.
pub async fn route(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    // Decoded: names of lambdas can hold characters that paths must escape.
    let path = path::decode(request.path()).into_owned();
    let moved = |path: &str| {
        let address = path::location(path, request.query_string());
        let mut moved = HttpResponse::MovedPermanently();
        moved.insert_header((LOCATION, address)).finish()
    };
    if let Some(clean) = path::cleaned(&path) {
        return moved(&clean);
    }
    if let Some(path) = sandbox::inner(&path) {
        return act(services, (path, true), (request, payload)).await;
    }
    let points = services.plugins.points();
    let method = request.method().as_str();
    let is_action = || method == "POST" && find_target(&points, &name_of(&path)).is_some();
    match points.handlers.find(&path, method) {
        Some(Route::Handler(found)) => {
            handler::serve(&services, &found, &path, (request, payload)).await
        }
        // What the handlers of a path do not accept can be for an action, which clients call by
        // POST.
        Some(Route::NoMethod) if !is_action() => unmatched().await,
        Some(Route::Moved) if !is_action() => moved(&format!("{path}/")),
        _ => act(services, (&path, false), (request, payload)).await,
    }
}

/// Answers a request for an action.
async fn act(
    services: web::Data<Services>,
    (path, is_sandboxed): (&str, bool),
    (request, payload): (HttpRequest, web::Payload),
) -> HttpResponse {
    let settings = &services.settings;
    let bytes = body::collect(&request, payload, &settings.limits, settings.body_timeout).await;
    let body = match bytes.and_then(|bytes| body::parse(&bytes, &settings.limits)) {
        Ok(body) => body,
        Err(refused) => return error::failure(&refused),
    };
    let trace = trace_of(&request);
    contents::log(&services, &request, trace.id, &body);
    let shown = Shown::of(&request, KEY.in_head(&request), TOKEN.in_head(&request));
    let remote = Remote::of(&request, &settings.proxies);
    let mut context = context(RequestId::own(trace.id), Origin::Api, &services);
    context.is_sandboxed = is_sandboxed;
    match run(&services, (path, &trace), body, (shown, remote), context).await {
        Ok(reply) => error::success(reply),
        Err(failed) => error::failure(&failed),
    }
}

/// An action, or a plugin's lambda.
enum Target {
    Action(&'static Action),
    Lambda(Lambda),
}

impl Target {
    /// Tells the trace what the target is. Lambdas are counted as one: plugins choose their names.
    fn tell(&self, trace: &Trace) {
        match self {
            Self::Action(action) if action.name.is_empty() => trace.name("home", "home"),
            Self::Action(action) => trace.name(action.name, action.name),
            Self::Lambda(lambda) => trace.name("lambda", &lambda.name),
        }
    }

    /// Refuses what a plugin in a sandbox may not call. Lambdas, whatever their names, belong to
    /// plugins that are in service.
    fn check_sandboxed(&self) -> Result<(), ApiError> {
        match self {
            Self::Action(action) if action.sandbox.is_some() => Ok(()),
            Self::Action(action) if action.name.is_empty() => Err(sandbox::not_run("home")),
            Self::Action(action) => Err(sandbox::not_run(action.name)),
            Self::Lambda(lambda) => Err(sandbox::not_run(&lambda.name)),
        }
    }
}

/// Finds the action, passes its checks, runs it, and builds the body of the answer. `from` is what
/// the request shows in addition to its body, and where it came from.
async fn run(
    services: &Arc<Services>,
    (path, trace): (&str, &Trace),
    body: Map<String, Json>,
    from: (Shown, Remote),
    context: RequestContext,
) -> Outcome {
    let _running = services.running.token();
    let target = find(services, path, &body)?;
    target.tell(trace);
    if context.is_sandboxed {
        target.check_sandboxed()?;
    }
    let is_read = matches!(target, Target::Action(action) if action.is_read());
    let time = (context.deadline, context.commit_gate.clone());
    let work = perform(Arc::clone(services), target, body, from, context);
    let reply = within(time, work).await?;
    if is_read {
        let unsent = services.door.unsent_bytes();
        services.settings.limits.check_unsent(unsent, &reply)?;
    }
    Ok(reply)
}

async fn perform(
    services: Arc<Services>,
    target: Target,
    mut body: Map<String, Json>,
    (mut shown, remote): (Shown, Remote),
    mut context: RequestContext,
) -> Outcome {
    let text = |name: &str| body.get(name).and_then(Json::as_str).map(str::to_owned);
    shown.key = shown.key.or_else(|| text("api_key"));
    shown.token = shown.token.or_else(|| text("access_token"));
    let (tag, checks) = match &target {
        Target::Action(action) => (action.tag, action.checks),
        Target::Lambda(lambda) => {
            let Lambda {
                key_required,
                user_required,
                ..
            } = *lambda;
            ("plugin", checks::of_point(key_required, user_required))
        }
    };
    context.tag = tag;
    let mut checked = CheckedRequest::new(&services, &body, shown, context);
    checked.pass(checks).await?;
    if let Target::Action(_) = target {
        services.settings.limits.check_lists(&body)?;
    }
    let (context, scope, key, token) = (checked.context, checked.scope, checked.key, checked.token);
    let as_of = checked.as_of;
    if matches!(target, Target::Lambda(_)) && context.origin == Origin::Api {
        // Plugins find the key and the token in the body, wherever the client put them.
        for (name, shown) in [("api_key", &key), ("access_token", &token)] {
            if let Some(shown) = shown {
                body.insert(name.to_owned(), shown.as_str().into());
            }
        }
    }
    let audit_reporter = AuditReporter::new(&services.audit, || Source {
        actor: context.actor(),
        request: context.request.id(),
        remote: remote.clone(),
    });
    let call = Call {
        services: Arc::clone(&services),
        context,
        scope,
        body,
        token,
        as_of,
        remote,
        audit_reporter: audit_reporter.clone(),
    };
    match target {
        Target::Action(action) if action.is_audited() => {
            let noting = audit_reporter.administration(action.name, &call.body);
            let outcome = (action.run)(call).await;
            noting.answered(outcome.as_ref().map_or_else(ApiError::status, |_| 200));
            outcome
        }
        Target::Action(action) => (action.run)(call).await,
        Target::Lambda(lambda) => action::lambda::run(call, lambda).await,
    }
}

/// Finds an action by path, or else by the body's `action` exactly as written.
///
/// Home is the target only if neither names an action: a request for an unknown path must not be
/// answered as if something had been done. Below the server's own `/_/` only the path counts.
fn find(services: &Services, path: &str, body: &Map<String, Json>) -> Result<Target, ApiError> {
    let by_path = name_of(path);
    let by_body = body
        .get("action")
        .and_then(Json::as_str)
        .unwrap_or_default();
    let points = services.plugins.points();
    let find_target = |name: &str| find_target(&points, name);
    let found = match (by_path.as_str(), by_body) {
        ("", by_body) => find_target(by_body),
        (by_path, "") => find_target(by_path.trim_end_matches(':')),
        (by_path, _) if by_path == "_" || by_path.starts_with("_:") => find_target(by_path),
        (by_path, by_body) => find_target(by_path).or_else(|| find_target(by_body)),
    };
    if found.is_none() {
        // It may belong to a plugin that has not connected yet.
        points.readiness.check(false)?;
    }
    found.ok_or_else(|| ApiError::new(Code::UndefinedOperation, "route unmatched"))
}

/// Returns the name of the action that a path stands for.
fn name_of(path: &str) -> String {
    path.strip_prefix('/').unwrap_or(path).replace('/', ":")
}

/// Returns the target of a name: a lambda, or else one of the server's own actions.
fn find_target(points: &ExtensionPoints, name: &str) -> Option<Target> {
    let lambda = points.lambdas.get(name).cloned().map(Target::Lambda);
    lambda.or_else(|| action::find(name).map(Target::Action))
}

/// Builds the initial context of a request.
pub(super) fn context(request: RequestId, origin: Origin, services: &Services) -> RequestContext {
    let timeout = services.settings.response_timeout;
    RequestContext {
        caller: Caller::default(),
        request,
        origin,
        deadline: timeout.map(|timeout| Instant::now() + timeout),
        ..RequestContext::system()
    }
}

/// Runs the actions that plugins call over their own connection.
pub struct PluginCaller {
    services: Arc<Services>,
    is_sandboxed: bool,
}

impl PluginCaller {
    /// Builds the caller for plugins in service.
    pub fn new(services: &Arc<Services>) -> Self {
        Self {
            services: Arc::clone(services),
            is_sandboxed: false,
        }
    }

    /// Builds the caller for plugins in a sandbox.
    pub fn sandboxed(services: &Arc<Services>) -> Self {
        Self {
            is_sandboxed: true,
            ..Self::new(services)
        }
    }
}

#[async_trait]
impl ApiCaller for PluginCaller {
    async fn call(&self, call: PluginCall) -> ApiReply {
        let services = &self.services;
        let PluginCall {
            plugin,
            payload,
            lineage,
            deadline,
        } = call;
        let Lineage {
            ancestors,
            depth,
            request_id,
            on_behalf,
            via,
        } = lineage;
        let refused = |error: &ApiError| ApiReply {
            status: error.status(),
            body: json!({"error": error.to_wire()}),
        };
        if depth > services.settings.max_depth {
            return refused(&ApiError::unexpected("Plugin exceeded max bounce count"));
        }
        // Without one the target would be home, and the answer as if something had been done.
        let action = payload.get("action").and_then(Json::as_str);
        if action.is_none_or(str::is_empty) {
            return refused(&ApiError::invalid_argument("missing action", &["action"]));
        }
        let request = match request_id {
            Some(id) => RequestId::shared(id),
            None => RequestId::own(Uuid::now_v7()),
        };
        let mut context = context(request, Origin::Plugin, services);
        context.plugin = Some(plugin.to_string());
        context.ancestors = ancestors;
        context.depth = depth;
        context.on_behalf = on_behalf;
        context.via = via;
        context.is_sandboxed = self.is_sandboxed;
        context.deadline = deadline.or(context.deadline);
        // The connection has shown the master key; a key in the body replaces it.
        let has_key = payload.get("api_key").is_some_and(|key| !key.is_null());
        let key = (!has_key).then(|| services.keys.master.reveal().to_owned());
        let shown = Shown {
            key,
            ..Shown::default()
        };
        let from = (shown, Remote::default());
        let trace = Trace::new(context.request.id());
        let watch = Watch::begin(Arc::clone(services), Arc::clone(&trace));
        let done = run(services, ("", &trace), payload, from, context).await;
        let failed = done.as_ref().err();
        let (status, code) = (
            failed.map_or(200, ApiError::status),
            failed.map(|it| it.code),
        );
        watch.end("unmatched", status, code);
        match done.and_then(|reply| reply.to_json()) {
            Ok(body) => ApiReply { status: 200, body },
            Err(error) => refused(&error),
        }
    }
}
