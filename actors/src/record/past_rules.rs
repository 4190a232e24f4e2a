//! Rules of access to fields, for the past.
//!
//! Rights are today's, also over what was. But a field may have had another name: it has its rules of
//! today under every name that it had, and one that was deleted since has those that it had last. Else
//! an old name would open what is closed.

use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Event, EventBody, EventKind, Stream};
use skytrail_schema::field_access::{FieldAccess, FieldRules};

use super::env::RecordEnv;
use super::past;

/// What changes the name of a field, or ends it.
const RENAMES: [EventKind; 2] = [EventKind::TypeFieldRenamed, EventKind::TypeFieldDeleted];

/// So many of a stream's last events are looked at for the last one: the store may list some of others.
const LAST: usize = 8;

/// The rules from a position on.
pub(super) struct PastRules {
    /// From which positions on which rules hold, the newest first.
    known: Vec<(u64, Arc<FieldRules>)>,
}

impl PastRules {
    /// Finds the rules for everything from a position on.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub(super) async fn since(env: &RecordEnv, position: u64) -> Result<Self, ApiError> {
        let (until, (mut rules, (_, mut access))) = env
            .live
            .at_one_position(|live| (live.get_field_rules(), live.get_field_access()));
        env.applied.wait_for(until).await?;
        let mut listed = Vec::new();
        for kind in RENAMES {
            let found = env.store.list_positions_of_kind(kind, position + 1, until);
            listed.extend(found.await?);
        }
        listed.sort_unstable();
        let mut known = Vec::new();
        for (_, event) in past::read_all(env, &listed).await?.iter().rev() {
            known.push((event.position, rules));
            access = before(env, &access, event).await?;
            rules = env.live.compile(&access);
        }
        known.push((0, rules));
        Ok(Self { known })
    }

    /// Returns the rules for what was right after a position.
    pub(super) fn at(&self, position: u64) -> Arc<FieldRules> {
        let mut known = self.known.iter();
        let found = known.find(|(from, _)| *from <= position);
        // The oldest hold from the beginning on.
        found.map_or_else(Arc::default, |(_, rules)| Arc::clone(rules))
    }
}

/// Returns the rules under the names that fields had before an event.
async fn before(
    env: &RecordEnv,
    access: &FieldAccess,
    event: &Event,
) -> Result<FieldAccess, ApiError> {
    let Stream::Type(type_name) = &event.stream else {
        return Ok(access.clone());
    };
    let name = type_name.as_str();
    Ok(match &event.body {
        EventBody::TypeFieldRenamed(rename) => access.before_rename(name, &rename.from, &rename.to),
        EventBody::TypeFieldDeleted(deletion) => {
            let field = &deletion.field;
            let is_anothers = env.definition(type_name).fields.contains_key(field);
            if access.names(name, field) && !is_anothers {
                // Said of what was deleted.
                return Ok(access.clone());
            }
            let last = access_at(env, event.position).await?;
            access.with_rules_of(&last, name, field)
        }
        _ => access.clone(),
    })
}

/// Returns the rules as they were at a position.
async fn access_at(env: &RecordEnv, position: u64) -> Result<FieldAccess, ApiError> {
    let stream = Stream::FieldAccess;
    let listed = env.store.list_positions_before(&stream, position, LAST);
    for (_, event) in past::read_all(env, &listed.await?).await? {
        if let (Stream::FieldAccess, EventBody::FieldAccessSet(access)) = (event.stream, event.body)
        {
            return Ok(access);
        }
    }
    Ok(FieldAccess::installed())
}
