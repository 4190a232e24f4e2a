//! Today's rules, applied to fields under the names that they had at an earlier time.
//!
//! A name means nothing across a change of the type: a rule moves with its field when that is
//! renamed, and the old name may belong to another field by now. So an earlier name is followed to
//! the field's name of today, and the rules are looked up there. A rule's `_field:x` goes the other
//! way, to what `x` was called in the record of that time. A field that was deleted since has no
//! rule today. It is checked against the rules that it had last, and also against what today's
//! rules say about its last name. So its past can still be closed, and nobody can open it by giving
//! its name to another field.

use std::collections::HashMap;
use std::sync::Arc;

use super::rules::Who;
use super::{FieldRules, FieldUse};

/// A change after which fields of a type have other names, or one field fewer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reshaping {
    /// A field was renamed.
    Renamed {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// A field was deleted.
    Deleted {
        /// Its last name.
        field: String,
        /// The rules for all fields, at the time of the deletion.
        rules: Arc<FieldRules>,
    },
}

/// The time of the record about which a rule is asked: it has the field names of that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// The earlier time.
    Then,
    /// Today.
    Today,
}

/// What became of a type's fields since an earlier time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    names: Names,
    /// The fields that were deleted since, by their earlier names.
    gone: HashMap<String, Gone>,
}

/// A field that was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gone {
    last_name: String,
    rules: Arc<FieldRules>,
    /// The names up to the deletion.
    names: Names,
    /// The names since the deletion, reversed: the rules are of the time of the deletion, the
    /// record is of today.
    since: Names,
}

impl Past {
    pub(super) fn of(since: &[Reshaping]) -> Self {
        let mut gone = HashMap::new();
        for (index, change) in since.iter().enumerate() {
            let Reshaping::Deleted { field, rules } = change else {
                continue;
            };
            let names = Names::across(since.iter().take(index));
            if let Some(then) = names.name_then(field) {
                let then = then.to_owned();
                let field = Gone {
                    last_name: field.clone(),
                    rules: Arc::clone(rules),
                    names,
                    since: Names::across(since.iter().skip(index)).reversed(),
                };
                gone.insert(then, field);
            }
        }
        Self {
            names: Names::across(since.iter()),
            gone,
        }
    }

    /// Like [`FieldRules::allows`], for an earlier name, and a record of either time.
    pub(super) fn allows(
        &self,
        today: &FieldRules,
        field_use: FieldUse,
        (record_type, field): (&str, &str),
        (who, when): (Who<'_>, When),
    ) -> bool {
        let says_today = |name: &str| {
            let names = match when {
                When::Then => Some(&self.names),
                When::Today => None,
            };
            today.says(field_use, (record_type, name), who, names)
        };
        match (self.names.today.get(field), self.gone.get(field)) {
            (None, _) => says_today(field),
            (Some(Some(name)), _) => says_today(name),
            (Some(None), Some(gone)) => {
                let last = (record_type, gone.last_name.as_str());
                let names = match when {
                    When::Then => &gone.names,
                    When::Today => &gone.since,
                };
                gone.rules.says(field_use, last, who, Some(names)) && says_today(&gone.last_name)
            }
            // A deleted field is always among those in `gone`. If it were not, nothing would be
            // known in its favour.
            (Some(None), None) => false,
        }
    }
}

/// The names of fields at two times. A name that no change affected is the same at both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// The later name by the earlier one; `None` for a field that was deleted.
    today: HashMap<String, Option<String>>,
    /// The earlier name by the later one.
    then: HashMap<String, String>,
}

impl Names {
    fn across<'a>(changes: impl DoubleEndedIterator<Item = &'a Reshaping>) -> Self {
        let mut today: HashMap<String, Option<String>> = HashMap::new();
        // Backwards: the map holds what becomes of each name from this change on.
        for change in changes.rev() {
            match change {
                Reshaping::Renamed { from, to } => {
                    let becomes = today.remove(to).unwrap_or_else(|| Some(to.clone()));
                    today.insert(from.clone(), becomes);
                }
                Reshaping::Deleted { field, .. } => {
                    today.insert(field.clone(), None);
                }
            }
        }
        let kept = today.iter();
        let then = kept.filter_map(|(then, today)| Some((today.clone()?, then.clone())));
        Self {
            then: then.collect(),
            today,
        }
    }

    /// Swaps the two times. The name of a deleted field then leads nowhere, and neither does a name
    /// that another field has at the later time.
    fn reversed(self) -> Self {
        let gone = self.today.iter().filter(|(_, today)| today.is_none());
        let mut today: HashMap<_, _> = gone.map(|(then, _)| (then.clone(), None)).collect();
        today.extend(self.then.into_iter().map(|(name, then)| (name, Some(then))));
        let kept = self.today.into_iter();
        let kept = kept.filter_map(|(then, name)| Some((then, name?)));
        Self {
            then: kept.collect(),
            today,
        }
    }

    /// Returns the earlier name of a field; `None` if the field is newer and its name belonged to
    /// another one.
    pub(super) fn name_then<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        match self.then.get(name) {
            Some(then) => Some(then),
            None if self.today.contains_key(name) => None,
            None => Some(name),
        }
    }
}

#[cfg(test)]
mod tests;
