//! Old event payloads, which are upgraded when they are read.
//!
//! Stored payloads are never changed, only erased. Each step is a pure function from version `n` of
//! a kind to `n + 1`; reading applies the missing steps. Every kind is at version 1 today, so the
//! table is empty.

use serde_json::Value as Json;

use crate::event::EventKind;

/// A step from one version of a kind's payload to the next.
type Step = fn(Json) -> Json;

/// The steps: kind, the version from which they start, and the function.
const STEPS: &[(EventKind, u16, Step)] = &[];

/// Why the stored version cannot be upgraded to the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpcastError {
    /// A newer program wrote the payload.
    #[error("the stored version is newer than the current one")]
    Newer,
    /// There is no step from this version.
    #[error("no upgrade from version {0}")]
    NoStep(u16),
}

/// Upgrades a payload from `version` to `current`.
///
/// # Errors
/// The version is newer than `current`, or a step is missing.
pub fn to_current(
    kind: EventKind,
    version: u16,
    current: u16,
    json: Json,
) -> Result<Json, UpcastError> {
    apply(STEPS, kind, version, current, json)
}

fn apply(
    steps: &[(EventKind, u16, Step)],
    kind: EventKind,
    version: u16,
    current: u16,
    json: Json,
) -> Result<Json, UpcastError> {
    if version > current {
        return Err(UpcastError::Newer);
    }
    (version..current).try_fold(json, |json, from| {
        let step = steps.iter().find(|(of, at, _)| (*of, *at) == (kind, from));
        step.map(|(_, _, step)| step(json))
            .ok_or(UpcastError::NoStep(from))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ONE: EventKind = EventKind::RecordCreated;
    const TWO: EventKind = EventKind::RecordChanged;

    fn count(mut json: Json) -> Json {
        json["steps"] = (json["steps"].as_u64().unwrap() + 1).into();
        json
    }

    #[test]
    fn steps_are_applied_in_a_chain() {
        let steps: &[(EventKind, u16, Step)] = &[(ONE, 1, count), (ONE, 2, count), (TWO, 1, count)];
        assert_eq!(
            apply(steps, ONE, 1, 3, json!({"steps": 0})),
            Ok(json!({"steps": 2}))
        );
        assert_eq!(
            apply(steps, ONE, 3, 3, json!({"steps": 0})),
            Ok(json!({"steps": 0}))
        );
    }

    #[test]
    fn a_newer_version_and_a_missing_step_are_errors() {
        let newer = apply(&[], ONE, 2, 1, json!({}));
        assert_eq!(newer, Err(UpcastError::Newer));
        let steps: &[(EventKind, u16, Step)] = &[(ONE, 1, count), (TWO, 2, count)];
        let stuck = apply(steps, ONE, 1, 3, json!({"steps": 0}));
        assert_eq!(stuck, Err(UpcastError::NoStep(2)));
    }

    #[test]
    fn every_version_that_was_ever_written_has_a_step() {
        for kind in EventKind::ALL {
            let steps = STEPS.iter().filter(|(of, ..)| of == kind);
            let from: Vec<u16> = steps.map(|(_, from, _)| *from).collect();
            assert_eq!(from, Vec::from_iter(1..kind.schema_version()), "{kind:?}");
        }
    }
}
