//! Actions that plugins registered.

use serde_json::Value as Json;
use skytrail_actors::plugin::{CallContext, Lambda, Lineage, PluginRequest};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::value::ValueError;

use super::{Call, Outcome, Reply, typed};

/// Passes the whole body to the plugin, and returns its result.
///
/// # Errors
/// 107 for a typed value that cannot be parsed; the plugin's error; an error if it does not answer.
pub async fn run(call: Call, lambda: Lambda) -> Outcome {
    let unreadable = |error: ValueError| ApiError::new(Code::BadRequest, error.to_string());
    let param = typed::members(call.body).map_err(unreadable)?;
    let request = PluginRequest {
        plugin: lambda.plugin,
        kind: "op",
        name: lambda.name,
        param: Json::Object(param),
        context: Some(CallContext::of(&call.context)),
        timeout: lambda.timeout,
        deadline: call.context.deadline,
        lineage: Lineage::of(&call.context),
    };
    let result = call.services.plugins.call(request).await?;
    let unreadable = |error: ValueError| ApiError::unexpected(error.to_string());
    let mut result = typed::normalize(result).map_err(unreadable)?;
    call.services.assets.complete(&mut result).await?;
    Reply::new(&result)
}
