//! `plugin:list`, `plugin:calls`, `plugin:test`, `plugin:init`: inspecting plugins, trying them, and
//! initialising them anew.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use skytrail_actors::plugin::{
    CallContext, DeliveryNote, ExtensionPoints, Hook, Lineage, PluginCallError, PluginRequest,
    PluginState, TransportKind, never_urgent,
};
use skytrail_schema::code::{ApiError, Code};

use super::{Call, Outcome, Reply, request};

/// How long `plugin:calls` waits for a call at most.
const MAX_WAIT_MS: u64 = 20_000;
/// What can be tried. Events are left out: they belong to a plugin's life cycle and are sent only
/// when they happen.
const KINDS: [&str; 5] = ["op", "handler", "hook", "timer", "provider"];

pub(super) async fn list(call: Call) -> Outcome {
    let state = call.services.broker.state().await;
    let state = state.ok_or_else(|| ApiError::overloaded("the plugins' mailbox"))?;
    let points = call.services.plugins.points();
    let mut shown = serde_json::to_value(&state)
        .map_err(|error| ApiError::unexpected(format!("cannot show the plugins: {error}")))?;
    let plugins = shown.get_mut("plugins").and_then(Json::as_array_mut);
    for plugin in plugins.into_iter().flatten() {
        let name = plugin["name"].as_str().unwrap_or_default();
        plugin["names"] = names(&points, name);
    }
    Reply::new(&shown)
}

/// Returns the names of a plugin's extension points, by kind.
fn names(points: &ExtensionPoints, plugin: &str) -> Json {
    let lambdas = points.lambdas.values();
    let lambdas = lambdas.filter(|it| &*it.plugin == plugin);
    let mut lambdas: Vec<&str> = lambdas.map(|it| it.name.as_str()).collect();
    lambdas.sort_unstable();
    let hooks = points.hooks.values().flatten();
    let hooks = hooks.filter(|it| &*it.plugin == plugin);
    let mut hooks: Vec<Json> = hooks
        .map(|it| json!({"name": it.name, "type": it.record_type, "trigger": it.trigger}))
        .collect();
    hooks.sort_by_key(ToString::to_string);
    let handlers = points.handlers.iter();
    let handlers = handlers.filter(|it| &*it.plugin == plugin);
    let mut handlers: Vec<String> = handlers
        .map(|it| format!("{} {}", it.method, it.path))
        .collect();
    handlers.sort_unstable();
    let providers = points.providers.iter();
    let providers = providers.filter(|(_, of)| &*of.plugin == plugin);
    let mut providers: Vec<&str> = providers.map(|(id, _)| id.as_str()).collect();
    providers.sort_unstable();
    json!({"op": lambdas, "handler": handlers, "hook": hooks, "provider": providers})
}

pub(super) async fn calls(call: Call) -> Outcome {
    let number = |name: &str| request::whole_number(&call.body, name);
    let after = number("after")?.unwrap_or_default();
    let wait = number("wait_ms")?.unwrap_or_default().min(MAX_WAIT_MS);
    let recent = call.services.broker.recent();
    if wait > 0 {
        let news = recent.beyond(after);
        // No new call is a valid answer, too.
        let _ = tokio::time::timeout(Duration::from_millis(wait), news).await;
    }
    Reply::new(&recent.after(after))
}

/// Returns a string that the request must have.
fn text(call: &Call, name: &str) -> Result<String, ApiError> {
    let text = request::text(&call.body, name)?.filter(|text| !text.is_empty());
    let missing = || ApiError::invalid_argument(format!("missing {name}"), &[name]);
    text.map(str::to_owned).ok_or_else(missing)
}

/// Returns the state of a plugin that the server knows.
async fn find(call: &Call, plugin: &str) -> Result<PluginState, ApiError> {
    let state = call.services.broker.state().await;
    let state = state.ok_or_else(|| ApiError::overloaded("the plugins' mailbox"))?;
    let mut known = state.plugins.into_iter();
    known.find(|known| known.name == plugin).ok_or_else(|| {
        let message = format!("no plugin named {plugin:?}");
        ApiError::new(Code::ResourceNotFound, message)
    })
}

pub(super) async fn init(call: Call) -> Outcome {
    let plugin = text(&call, "plugin")?;
    if find(&call, &plugin).await?.transport == TransportKind::WebSocket {
        let message =
            "this plugin connects by itself: restart its workers, and they register again";
        return Err(ApiError::invalid_argument(message, &["plugin"]));
    }
    let outcome = call.services.broker.initialise_anew(&plugin).await;
    let stopped = || ApiError::new(Code::PluginUnavailable, "the server is stopping");
    let points = call.services.plugins.points();
    Reply::new(&match outcome.ok_or_else(stopped)? {
        Ok(counts) => json!({"points": counts, "names": names(&points, &plugin)}),
        Err(problems) => json!({"problems": problems}),
    })
}

pub(super) async fn test(mut call: Call) -> Outcome {
    let (plugin, kind) = (text(&call, "plugin")?, text(&call, "kind")?);
    let name = text(&call, "name")?;
    let kind = KINDS.into_iter().find(|known| *known == kind);
    let unknown =
        || ApiError::invalid_argument(format!("kind should be one of {KINDS:?}"), &["kind"]);
    let kind = kind.ok_or_else(unknown)?;
    find(&call, &plugin).await?;
    let note = delivery(&call, (&plugin, kind, &name));
    let plugin_request = PluginRequest {
        plugin: plugin.as_str().into(),
        kind,
        name,
        param: call.body.remove("param").unwrap_or_default(),
        context: (kind != "timer").then(|| CallContext::of(&call.context)),
        timeout: None,
        deadline: call.context.deadline,
        lineage: Lineage::of(&call.context),
    };
    let began = Instant::now();
    let plugins = &call.services.plugins;
    let answer = match note {
        Some(note) => plugins.deliver(plugin_request, note, never_urgent()).await,
        None => plugins.ask(plugin_request).await,
    };
    let answer = answer.map_err(PluginCallError::into_error);
    let duration_ms = began.elapsed().as_secs_f64() * 1e3;
    Reply::new(&match answer {
        Ok(result) => json!({"result": result, "duration_ms": duration_ms}),
        Err(error) => json!({"error": error.to_wire(), "duration_ms": duration_ms}),
    })
}

/// Returns the delivery to pass on if the point is an after-hook: a new one for each call, at the
/// log's end.
fn delivery(call: &Call, (plugin, kind, name): (&str, &str, &str)) -> Option<DeliveryNote> {
    let points = call.services.plugins.points();
    let mut hooks = points.hooks.values().flatten();
    let is_it = |hook: &Hook| &*hook.plugin == plugin && hook.name == name;
    let is_delivery = kind == "hook" && hooks.any(|hook| hook.trigger.is_after() && is_it(hook));
    let what = format!("test/{}", call.context.request.id());
    let event = (call.services.events.head(), call.services.clock.now());
    is_delivery.then(|| DeliveryNote::tried(&what, name, event))
}
