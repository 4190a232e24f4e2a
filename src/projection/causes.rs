//! Errors for people.

/// Writes an error and what caused it, each once.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        let text = match cause.downcast_ref() {
            // Its words alone: where in the database's own source they are from helps nobody.
            Some(sqlx::Error::Database(error)) => error.message().to_owned(),
            _ => cause.to_string(),
        };
        // Some say what caused them themselves; of the database's words there may be more behind.
        let is_said = |last: &String| last.ends_with(&text) || text.starts_with(last.as_str());
        if !causes.last().is_some_and(is_said) {
            causes.push(text);
        }
    }
    causes.join(": ")
}
