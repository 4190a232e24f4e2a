//! What happens to the rules when a field of a type is renamed: they follow the field.
//!
//! A rename gives nobody more or fewer rights. The type's own rules for the field move to the new
//! name and replace those that were there. Rules for any type stay, because other types have fields
//! with these names, too. Where they would decide differently for the type's fields than before,
//! the type gets rules of its own that say the same as before. Three things depend on the rules for
//! the new name: access to a field that no rule was about; who may do something because a field of
//! that name names them; and which of several such rules is tried first.

use std::collections::BTreeMap;

use super::{ANY, FieldAccess, FieldAccessEntry, FieldUserRole, IS_VERIFIED};
use crate::id::TypeName;

/// Rules by field; each list is in the order in which it is tried.
type ByField = BTreeMap<String, Vec<FieldAccessEntry>>;

/// The rules that can apply to a type's fields.
struct Groups {
    own: ByField,
    of_any_type: ByField,
}

impl FieldAccess {
    /// Returns the rules after a field of a type was renamed; `None` if they do not change.
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

    /// Returns the rules that apply to a field.
    fn find(&self, field: &str) -> Option<&Vec<FieldAccessEntry>> {
        let own = self.own.get(field).or_else(|| self.own.get(ANY));
        let of_any_type = || {
            let named = self.of_any_type.get(field);
            named.or_else(|| self.of_any_type.get(ANY))
        };
        own.or_else(of_any_type)
    }

    /// Returns the type's own rules after a field was renamed.
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
        // Rules for all fields come first: if the type gets such rules of its own, they hide the
        // any-type rules for single fields.
        let named = self.of_any_type.keys().map(String::as_str);
        let named = named.filter(|field| ![ANY, from, to].contains(field));
        for field in [ANY, from].into_iter().chain(named) {
            let Some(group) = self.find(field) else {
                continue;
            };
            let name = if field == from { to } else { field };
            let mut expected = moved(group, name);
            let holds = after.find(name).map(|group| says(group));
            if holds.is_none_or(|holds| holds != says(&expected)) {
                // A rule of its own would lift the guard on `is_verified` and let users set it
                // themselves. Only people may add such a rule, so this one does not allow writing.
                if (record_type, name) == (TypeName::USER, IS_VERIFIED)
                    && !self.own.contains_key(field)
                {
                    expected.iter_mut().for_each(|entry| entry.writable = false);
                }
                after.own.insert(name.to_owned(), expected);
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

/// Returns what rules say, regardless of the field that they are about.
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
