//! Actions that plugins registered.

use serde_json::Value as Json;
use skytrail_actors::plugin::{CallContext, Lambda, Lineage, PluginRequest};

use super::{Call, Outcome};
use crate::http::checks::Check::{self, Authenticator, InjectAuthId, PluginReady, RequireAuth};

/// Returns what is checked before a lambda runs.
pub fn checks(lambda: &Lambda) -> &'static [Check] {
    match (lambda.user_required, lambda.key_required) {
        (true, _) => &[Authenticator, RequireAuth, PluginReady],
        (false, true) => &[Authenticator, PluginReady],
        (false, false) => &[InjectAuthId, PluginReady],
    }
}

/// Hands the whole body to the plugin, and its result back.
///
/// # Errors
/// The plugin's, or that it does not answer.
pub async fn run(call: Call, lambda: Lambda) -> Outcome {
    let request = PluginRequest {
        plugin: lambda.plugin,
        kind: "op",
        name: lambda.name,
        param: Json::Object(call.body),
        context: Some(CallContext::of(&call.context)),
        timeout: lambda.timeout,
        deadline: call.context.deadline,
        lineage: Lineage::of(&call.context),
    };
    Ok(call.services.plugins.call(request).await?.into())
}
