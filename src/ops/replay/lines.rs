//! Text output of a replay.

use serde_json::Value as Json;

use super::checkpoint::Checkpoint;

/// Describes a write whose outcome would be different, in one line or several.
pub(super) fn of(finding: &Json) -> Vec<String> {
    let text = |name: &str| finding.get(name).and_then(Json::as_str).unwrap_or_default();
    let position = finding.get("position").and_then(Json::as_u64);
    let mut lines = vec![format!(
        "{:>8}  {}  {:<8}  {}  {}",
        position.unwrap_or_default(),
        text("at"),
        text("outcome"),
        text("record"),
        text("kind"),
    )];
    let fields = finding.get("fields").and_then(Json::as_object);
    for (name, field) in fields.into_iter().flatten() {
        let shown = |which: &str| match field.get(which) {
            None | Some(Json::Null) => "-".to_owned(),
            Some(value) => value.to_string(),
        };
        let (then, now) = (shown("then"), shown("now"));
        lines.push(format!("    {name}: {then} -> {now}"));
    }
    if let Some(error) = finding.get("error") {
        let message = error.get("message").and_then(Json::as_str);
        let code = error.get("code").and_then(Json::as_i64);
        lines.push(format!(
            "    says: {} ({})",
            message.unwrap_or_default(),
            code.unwrap_or_default()
        ));
    }
    for (name, text) in [
        ("ignored", "also different, but ignored"),
        ("unknown", "not known in the form that was sent"),
        ("refused_calls", "requested, but not run in a sandbox"),
    ] {
        let names = finding.get(name).and_then(Json::as_array);
        let names: Vec<&str> = names.into_iter().flatten().flat_map(Json::as_str).collect();
        if !names.is_empty() {
            lines.push(format!("    {text}: {}", names.join(", ")));
        }
    }
    lines
}

/// Formats the summary.
pub(super) fn summary(checkpoint: &Checkpoint, certain: bool) -> Vec<String> {
    let writes = checkpoint.writes();
    let (first, last) = checkpoint.range();
    let left_out = if certain { " (left out)" } else { "" };
    let mut lines = vec![format!(
        "{}, positions {first} to {last}: {} writes; {} as before, {} changed, {} refused, {} \
         depend on what was sent{left_out}, {} with a failed after-hook",
        checkpoint.plugin(),
        writes.num_replayed(),
        writes.same,
        writes.changed,
        writes.refused,
        writes.depends,
        writes.failed,
    )];
    let ignored = checkpoint.ignored().iter();
    let ignored: Vec<String> = ignored
        .map(|(field, number)| format!("{field} in {number} writes"))
        .collect();
    if !ignored.is_empty() {
        lines.push(format!("different and ignored: {}", ignored.join(", ")));
    }
    if writes.unhooked + writes.erased > 0 {
        lines.push(format!(
            "not replayed: {} writes that no hook saw, {} that were partly erased",
            writes.unhooked, writes.erased
        ));
    }
    lines
}
