//! What becomes of the rules when a field of a type gets another name: they go with it.
//!
//! Nobody may do more than before, or less. Rules of the type move to the new name; those that were there
//! for it make room. Rules for any type stay, since other types have fields of these names, too: where
//! they would say something else of the type's fields than before, the type gets rules of its own
//! that say the same. Some things are as people have said them of the new name: what a field is under
//! that no rule was about; who may do something because a field of that name names him; and which of
//! several such rules comes first.

use std::collections::BTreeMap;

use super::{ANY, FieldAccess, FieldAccessEntry, FieldUserRole, IS_VERIFIED};
use crate::id::TypeName;

/// Rules by field, each list in the order in which it is tried.
type ByField = BTreeMap<String, Vec<FieldAccessEntry>>;

/// The rules that a type's fields may be under.
struct Groups {
    own: ByField,
    of_any_type: ByField,
}

impl FieldAccess {
    /// Returns the rules after a field of a type got another name; `None` when they stay as they are.
    pub fn with_renamed_field(&self, record_type: &str, from: &str, to: &str) -> Option<Self> {
        let before = Groups::new(self, record_type);
        let own = before.own_after(record_type, (from, to));
        if own == before.own {
            return None;
        }
        let others = self.0.iter().filter(|it| it.record_type != record_type);
        let mut entries: Vec<_> = others.cloned().collect();
        entries.extend(own.into_values().flatten());
        entries.sort_by(FieldAccessEntry::compare);
        Some(Self(entries))
    }
}

impl Groups {
    fn new(access: &FieldAccess, record_type: &str) -> Self {
        let of = |record_type: &str| {
            let mut groups = ByField::new();
            for entry in access.0.iter().filter(|it| it.record_type == record_type) {
                let group = groups.entry(entry.record_field.clone()).or_default();
                group.push(entry.clone());
            }
            for group in groups.values_mut() {
                group.sort_by(|left, right| left.user_role.cmp(&right.user_role));
            }
            groups
        };
        Self {
            own: of(record_type),
            of_any_type: of(ANY),
        }
    }

    /// Finds the rules that count for a field.
    fn find(&self, field: &str) -> Option<&Vec<FieldAccessEntry>> {
        let own = self.own.get(field).or_else(|| self.own.get(ANY));
        let of_any_type = || {
            let named = self.of_any_type.get(field);
            named.or_else(|| self.of_any_type.get(ANY))
        };
        own.or_else(of_any_type)
    }

    /// Returns the type's own rules after a field got another name.
    fn own_after(&self, record_type: &str, (from, to): (&str, &str)) -> ByField {
        let moved = |group: &Vec<FieldAccessEntry>, field: &str| {
            let moved = group.iter().map(|entry| FieldAccessEntry {
                record_type: record_type.to_owned(),
                record_field: field.to_owned(),
                user_role: entry.user_role.with_renamed_field(from, to),
                ..entry.clone()
            });
            moved.collect::<Vec<_>>()
        };
        let stays = self.own.iter().filter(|(field, _)| *field != from);
        let mut after = Self {
            own: stays
                .map(|(field, group)| (field.clone(), moved(group, field)))
                .collect(),
            of_any_type: self.of_any_type.clone(),
        };
        // What is said of all fields comes first: where the type gets it, it hides what is said of
        // single fields of any type.
        let named = self.of_any_type.keys().map(String::as_str);
        let named = named.filter(|field| ![ANY, from, to].contains(field));
        for field in [ANY, from].into_iter().chain(named) {
            let Some(group) = self.find(field) else {
                continue;
            };
            let name = if field == from { to } else { field };
            let mut wanted = moved(group, name);
            let holds = after.find(name).map(|group| says(group));
            if holds.is_none_or(|holds| holds != says(&wanted)) {
                // A rule for it is what lets users say themselves who is verified; it is for people to
                // make.
                if (record_type, name) == (TypeName::USER, IS_VERIFIED)
                    && !self.own.contains_key(field)
                {
                    wanted.iter_mut().for_each(|entry| entry.writable = false);
                }
                after.own.insert(name.to_owned(), wanted);
            }
        }
        after.own
    }
}

impl FieldUserRole {
    fn with_renamed_field(&self, from: &str, to: &str) -> Self {
        match self {
            Self::Field(field) if field == from => Self::Field(to.to_owned()),
            _ => self.clone(),
        }
    }
}

/// What rules say, whatever field they are about.
fn says(group: &[FieldAccessEntry]) -> Vec<(&FieldUserRole, [bool; 4])> {
    let said = group.iter().map(|entry| {
        let FieldAccessEntry {
            writable,
            readable,
            comparable,
            discoverable,
            ..
        } = *entry;
        let may = [writable, readable, comparable, discoverable];
        (&entry.user_role, may)
    });
    said.collect()
}
