//! Names that were given a value but are not settings, most likely misspelt ones.

use std::collections::BTreeSet;

use super::source::{Mistake, Origin, Sources};

/// Settings of v1 that mean nothing here, but are not mistakes.
const IGNORED: &[&str] = &[
    "AUTH_RECORD_TYPE",
    "BAIDU_API_KEY",
    "BAIDU_SECRET_KEY",
    "CLOUD_ASSET_HOST",
    "CLOUD_ASSET_PRIVATE_PREFIX",
    "CLOUD_ASSET_PUBLIC_PREFIX",
    "CLOUD_ASSET_TOKEN",
    "DB_IMPL_NAME",
    "GOMAXPROCS",
    "SENTRY_DSN",
    "SENTRY_LEVEL",
];

/// Returns the names that are not known settings. The environment is not checked, because it
/// contains the variables of all programs.
pub(super) fn unknown(sources: &Sources, known: &BTreeSet<String>) -> Vec<Mistake> {
    let is_ours = |name: &str| known.contains(name) || IGNORED.contains(&name);
    let origins = [Origin::File, Origin::DotEnv, Origin::Flag];
    let given = sources.given();
    given
        .filter(|(name, origin)| origins.contains(origin) && !is_ours(name))
        .map(|(name, origin)| {
            let spelled = |name: &str| match origin {
                Origin::File => name.to_lowercase(),
                _ => name.to_owned(),
            };
            let nearest = nearest(name, known).map(spelled);
            let hint = nearest.map(|it| format!("; did you mean {it}?"));
            Mistake {
                name: spelled(name),
                value: None,
                origin,
                place: sources.place_of(origin),
                fault: format!("no such setting{}", hint.unwrap_or_default()),
            }
        })
        .collect()
}

/// Returns the known name that is only a few keystrokes away.
fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let upper = name.to_uppercase();
    let distance = |other: &str| strsim::damerau_levenshtein(&upper, &other.to_uppercase());
    let near = known.iter().map(|other| (distance(other), other.as_str()));
    let (strokes, nearest) = near.min()?;
    (strokes <= 1 + name.len() / 5).then_some(nearest)
}
