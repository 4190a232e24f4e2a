//! Records in the log what plugins register: once, and again whenever it changes.
//!
//! Nothing waits for it. A registration counts at once; a failed append is retried.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, PluginRegistration, Stream};
use tokio::sync::watch;

use super::gate::PluginGate;
use crate::context::RequestContext;
use crate::record::attempt::{Outcome, commit};
use crate::record::decide::Plan;
use crate::record::env::RecordEnv;

/// The pause before a failed append is retried.
const PAUSE: Duration = Duration::from_secs(5);

/// The version of a plugin's stream, and its last registration.
type Recorded = (u32, Option<PluginRegistration>);

/// Appends registrations to the log for as long as plugins exist; `changes` fires when something
/// may have changed.
pub async fn record_registrations(
    env: RecordEnv,
    plugins: Arc<dyn PluginGate>,
    mut changes: watch::Receiver<()>,
) {
    let mut recorded = HashMap::new();
    loop {
        let done = record_all(&env, &*plugins, &mut recorded).await;
        let is_over = match done {
            Ok(()) => changes.changed().await.is_err(),
            Err(error) => {
                tracing::warn!(%error, "a plugin's registration is not in the log yet");
                tokio::time::sleep(PAUSE).await;
                false
            }
        };
        if is_over {
            return;
        }
    }
}

async fn record_all(
    env: &RecordEnv,
    plugins: &dyn PluginGate,
    recorded: &mut HashMap<Arc<str>, Recorded>,
) -> Result<(), ApiError> {
    let points = plugins.points();
    for (plugin, registration) in &points.registrations {
        let registered = PluginRegistration {
            points: registration.lines(),
        };
        let stream = Stream::Plugin(plugin.as_ref().into());
        let (version, last) = match recorded.remove(plugin) {
            Some(known) => known,
            None => find(env, &stream).await?,
        };
        let version = if last.as_ref() == Some(&registered) {
            version
        } else {
            append(env, stream, version + 1, registered.clone()).await?;
            version + 1
        };
        recorded.insert(Arc::clone(plugin), (version, Some(registered)));
    }
    Ok(())
}

/// Finds the last registration in the log.
async fn find(env: &RecordEnv, stream: &Stream) -> Result<Recorded, ApiError> {
    let head = env.log.head();
    env.applied.wait_for(head).await?;
    let Some((_, event)) = env.streams().back(stream, head).next().await? else {
        return Ok((0, None));
    };
    let last = match event.body {
        EventBody::PluginRegistered(last) => Some(last),
        _ => None,
    };
    Ok((event.version, last))
}

async fn append(
    env: &RecordEnv,
    stream: Stream,
    version: u32,
    registered: PluginRegistration,
) -> Result<(), ApiError> {
    let mut plan = Plan::default();
    let mut context = RequestContext::system();
    if let Stream::Plugin(name) = &stream {
        context.plugin = Some(name.to_string());
    }
    plan.push(stream, version, EventBody::PluginRegistered(registered));
    let position = env.model.position();
    match commit(&env.log, plan, position, &context).await? {
        Outcome::Done(_) => Ok(()),
        Outcome::Conflict => Err(ApiError::overloaded("the plugin's stream")),
    }
}
