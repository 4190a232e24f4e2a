//! `task:list`, `task:run`, `task:pause`, `task:resume`

use serde_json::json;
use skytrail_actors::task::{ListTasks, PauseTask, RunTask};
use skytrail_schema::code::ApiError;
use skytrail_schema::id::TaskId;

use super::{Call, Outcome, Reply, request};

pub(super) async fn list(call: Call) -> Outcome {
    let tasks = call.services.tasks.send(ListTasks).await;
    Reply::new(&json!({"tasks": tasks.map_err(gone)?}))
}

pub(super) async fn run(call: Call) -> Outcome {
    let message = RunTask {
        id: task_id(&call)?,
        context: call.context.clone(),
    };
    let ended = call.services.tasks.send(message).await;
    Reply::new(&ended.map_err(gone)??)
}

pub(super) async fn pause(call: Call) -> Outcome {
    set_paused(call, true).await
}

pub(super) async fn resume(call: Call) -> Outcome {
    set_paused(call, false).await
}

async fn set_paused(call: Call, is_paused: bool) -> Outcome {
    let message = PauseTask {
        id: task_id(&call)?,
        is_paused,
        context: call.context.clone(),
    };
    let done = call.services.tasks.send(message).await;
    Reply::new(&done.map_err(gone)??)
}

fn task_id(call: &Call) -> Result<TaskId, ApiError> {
    let text = |name| request::text(&call.body, name).map(Option::unwrap_or_default);
    let (plugin, name) = (text("plugin")?, text("name")?);
    let members = [("plugin", plugin), ("name", name)];
    let missing = members.iter().filter(|(_, text)| text.is_empty());
    let missing: Vec<&str> = missing.map(|(member, _)| *member).collect();
    if !missing.is_empty() {
        return Err(request::missing(&missing));
    }
    Ok(TaskId::new(plugin, name))
}

fn gone(_: actix::MailboxError) -> ApiError {
    ApiError::overloaded("the tasks' actor")
}
