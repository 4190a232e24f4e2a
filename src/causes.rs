//! Errors as people read them.

use std::iter::successors;

/// Writes an error and its causes, each once.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in successors(Some(error), |error| error.source()) {
        let text = match cause.downcast_ref() {
            // Only the message: where in the database's own source it was raised helps nobody.
            Some(sqlx::Error::Database(error)) => error.message().to_owned(),
            _ => cause.to_string(),
        };
        // Some errors name their cause themselves; a database error can add more after the same
        // message.
        let is_said = |last: &String| last.ends_with(&text) || text.starts_with(last.as_str());
        if !causes.last().is_some_and(is_said) {
            causes.push(text);
        }
    }
    causes.join(": ")
}

/// Writes an error and its causes as they are: for an error whose own text contains none of them.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
