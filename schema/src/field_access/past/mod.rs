//! The rules of today, held against fields under the names that they had at a moment.
//!
//! A name says nothing across a change of the type: a rule moves with its field when that is renamed,
//! and the old name may be another field's by now. So a name of then is followed to what the field
//! is today, and asked for there; a rule's `_field:x` goes the other way, to what `x` was called
//! in the record of then. A field that was deleted since has no rule of today. It is held against those
//! that it had last, and against what is said of its last name today as well: so its past can be
//! closed still, and nobody opens it by giving its name to another field.

use std::collections::HashMap;
use std::sync::Arc;

use super::rules::Who;
use super::{FieldRules, FieldUse};

/// A change after which a type's fields have other names, or one less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reshaping {
    /// A field got another name.
    Renamed {
        /// The old one.
        from: String,
        /// The new one.
        to: String,
    },
    /// A field went.
    Deleted {
        /// Its last name.
        field: String,
        /// The rules for all fields, as they were then.
        rules: Arc<FieldRules>,
    },
}

/// When a record was that a rule is asked about: it has the names of then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// At the moment.
    Then,
    /// Today.
    Today,
}

/// What became of a type's fields since a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    names: Names,
    /// Those that went, by their names at the moment.
    gone: HashMap<String, Gone>,
}

/// A field that went.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gone {
    last_name: String,
    rules: Arc<FieldRules>,
    /// Names up to when it went.
    names: Names,
    /// Names since, the other way round: it went then, and the record is of today.
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

    /// As [`FieldRules::allows`], for a name of then, and a record of either time.
    pub(super) fn allows(
        &self,
        today: &FieldRules,
        wanted: FieldUse,
        (record_type, field): (&str, &str),
        (who, when): (Who<'_>, When),
    ) -> bool {
        let says_today = |name: &str| {
            let names = match when {
                When::Then => Some(&self.names),
                When::Today => None,
            };
            today.says(wanted, (record_type, name), who, names)
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
                gone.rules.says(wanted, last, who, Some(names)) && says_today(&gone.last_name)
            }
            // What went is among those that went; if not, nothing is known in its favour.
            (Some(None), None) => false,
        }
    }
}

/// What fields were called at two times. Names that no change was about are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// By the earlier name the later one; none for a field that went.
    today: HashMap<String, Option<String>>,
    /// By the later name the earlier one.
    then: HashMap<String, String>,
}

impl Names {
    fn across<'a>(changes: impl DoubleEndedIterator<Item = &'a Reshaping>) -> Self {
        let mut today: HashMap<String, Option<String>> = HashMap::new();
        // Backwards: what is known of a name is what becomes of it from there on.
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

    /// Returns them as if the later time were the earlier one. A name that went leads nowhere, nor does
    /// one that another has by the later time.
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

    /// Returns what a field of later was called; `None` for one that is newer, under a name that was
    /// another's.
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
