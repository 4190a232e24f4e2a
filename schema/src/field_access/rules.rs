//! The rules in the form in which they are applied.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::past::{Names, Past, When};
use super::{ANY, FieldAccess, FieldAccessEntry, FieldUserRole, Reshaping};
use crate::caller::Caller;
use crate::id::{TypeName, UserId};
use crate::record::{Fields, Record};
use crate::value::Value;

/// What a caller wants to do with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldUse {
    /// See it.
    Read,
    /// Save it.
    Write,
    /// Sort by it, or use it in any predicate.
    Compare,
    /// Use it in a predicate of plain equality.
    Discover,
}

impl FieldAccessEntry {
    fn allows(&self, field_use: FieldUse) -> bool {
        match field_use {
            FieldUse::Read => self.readable,
            FieldUse::Write => self.writable,
            FieldUse::Compare => self.comparable,
            FieldUse::Discover => self.discoverable || self.comparable,
        }
    }
}

/// The rules of a type's fields, including `*`; each list is in the order in which it is tried.
type ByField = HashMap<String, Vec<FieldAccessEntry>>;

/// The app's rules, ready for lookups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldRules {
    by_type: HashMap<String, ByField>,
    guards_verified: bool,
    /// By type, what became of its fields since the time whose names are used; absent for types
    /// whose names are today's.
    past: HashMap<String, Past>,
    /// The rules of the time whose names are used; they must allow a use as well.
    then: Option<Arc<FieldRules>>,
}

/// The caller, and the record if there is one.
pub(super) type Who<'a> = (&'a Caller, Option<&'a Record>);

/// The field of the user record that says that the user was verified.
pub const IS_VERIFIED: &str = "is_verified";

impl FieldRules {
    /// Sorts rules into groups.
    pub fn new(access: &FieldAccess) -> Self {
        let mut rules = Self::default();
        for entry in &access.0 {
            let by_field = rules.by_type.entry(entry.record_type.clone()).or_default();
            let group = by_field.entry(entry.record_field.clone()).or_default();
            group.push(entry.clone());
        }
        for group in rules.by_type.values_mut().flat_map(HashMap::values_mut) {
            group.sort_by(|left, right| left.user_role.cmp(&right.user_role));
        }
        rules
    }

    /// Returns the same rules, but with `guards_verified` nobody may set who is verified unless a
    /// rule is about that field.
    #[must_use]
    pub fn guarding_verified(self, guards_verified: bool) -> Self {
        Self {
            guards_verified,
            ..self
        }
    }

    /// Adapts the rules to records of a type as they were before the changes `since`, given in
    /// order.
    ///
    /// Fields, in records and in queries, then have the names of that time. Call this once per
    /// type.
    pub fn carry_back(&mut self, record_type: &TypeName, since: &[Reshaping]) {
        if !since.is_empty() {
            self.past.insert(record_type.to_string(), Past::of(since));
        }
    }

    /// Restricts the rules to what the rules of the time to which they were carried back also
    /// allowed.
    pub fn hold_besides(&mut self, then: Arc<FieldRules>) {
        self.then = Some(then);
    }

    /// Returns whether only the master key may save a field, although no rule says so.
    fn is_guarded(&self, field_use: FieldUse, (record_type, field): (&str, &str)) -> bool {
        let has_rule = |fields: &ByField| fields.contains_key(field);
        self.guards_verified
            && field_use == FieldUse::Write
            && (record_type, field) == (TypeName::USER, IS_VERIFIED)
            && !self.by_type.get(record_type).is_some_and(has_rule)
    }

    /// Returns whether the caller may use a field in this way. Without a record, rules about owners
    /// and about users that fields name do not apply.
    ///
    /// The master key may do everything, and reserved fields are not guarded here.
    pub fn allows(
        &self,
        field_use: FieldUse,
        (record_type, field): (&str, &str),
        caller: &Caller,
        record: Option<&Record>,
    ) -> bool {
        if caller.is_master() || field.starts_with('_') {
            return true;
        }
        if self.is_guarded(field_use, (record_type, field)) {
            return false;
        }
        let (of, who) = ((record_type, field), (caller, record));
        let then = self.then.as_ref();
        then.is_none_or(|then| then.allows(field_use, of, caller, record))
            && self.allows_when(When::Then, field_use, of, who)
    }

    /// Returns whether the caller may see a field of the past record `then`.
    ///
    /// If `today` is given, the record as it is today, or was last, under today's names, must allow
    /// it as well.
    pub fn allows_seeing(
        &self,
        field: &str,
        caller: &Caller,
        then: &Record,
        today: Option<&Record>,
    ) -> bool {
        let of = (then.id.record_type.as_str(), field);
        let allows_today = |today: &Record| {
            caller.is_master()
                || field.starts_with('_')
                || self.allows_when(When::Today, FieldUse::Read, of, (caller, Some(today)))
        };
        self.allows(FieldUse::Read, of, caller, Some(then)) && today.is_none_or(allows_today)
    }

    /// Returns what the rules say about a field by the name that it has here, with the record as it
    /// was `when`.
    fn allows_when(
        &self,
        when: When,
        field_use: FieldUse,
        (record_type, field): (&str, &str),
        who: Who<'_>,
    ) -> bool {
        let of = (record_type, field);
        match self.past.get(record_type) {
            Some(past) => past.allows(self, field_use, of, (who, when)),
            None => self.says(field_use, of, who, None),
        }
    }

    /// Returns what the rules say about a field under the name that they use for it. If `names` is
    /// given, the record has the names of an earlier time.
    pub(super) fn says(
        &self,
        field_use: FieldUse,
        (record_type, field): (&str, &str),
        who: Who<'_>,
        names: Option<&Names>,
    ) -> bool {
        let Some(group) = self.group(record_type, field) else {
            return true;
        };
        let mut rules = group.iter();
        let decisive = rules.find(|entry| entry.user_role.is_about(who, names));
        decisive.is_some_and(|entry| entry.allows(field_use))
    }

    fn group(&self, record_type: &str, field: &str) -> Option<&Vec<FieldAccessEntry>> {
        let of = |record_type: &str, field: &str| self.by_type.get(record_type)?.get(field);
        of(record_type, field)
            .or_else(|| of(record_type, ANY))
            .or_else(|| of(ANY, field))
            .or_else(|| of(ANY, ANY))
    }

    /// Returns whether some rule may hide a field of the type from the caller, or keep the caller
    /// from saving it.
    pub fn may_hide(&self, caller: &Caller, record_type: &TypeName) -> bool {
        let concerns = |name: &str| self.by_type.contains_key(name);
        let is_guarded = self.guards_verified && record_type.is_user();
        // The rules that a field had before it was deleted count as well.
        let has_past = self.past.contains_key(record_type.as_str());
        let is_concerned = has_past || concerns(record_type.as_str()) || concerns(ANY);
        let then = self.then.as_ref();
        let may_then = then.is_some_and(|then| then.may_hide(caller, record_type));
        !caller.is_master() && (is_guarded || is_concerned || may_then)
    }

    /// Removes the fields that the caller must not see.
    ///
    /// Call it on the whole record, before other fields are removed: a rule may be about users that
    /// one of them names.
    pub fn hide_unreadable(&self, caller: &Caller, record: &mut Record) {
        self.hide_unseen(caller, record, None);
    }

    /// Like [`FieldRules::hide_unreadable`], for a past version of the record that is `today` now;
    /// see [`FieldRules::allows_seeing`].
    pub fn hide_unseen(&self, caller: &Caller, record: &mut Record, today: Option<&Record>) {
        if !self.may_hide(caller, &record.id.record_type) {
            return;
        }
        let is_hidden = |field: &&String| !self.allows_seeing(field, caller, record, today);
        let hidden: Vec<String> = record.fields.keys().filter(is_hidden).cloned().collect();
        record.fields.retain(|field, _| !hidden.contains(field));
    }

    /// Lists the fields of `record` that differ from `stored` and that the caller must not save.
    ///
    /// Fields that the caller must not see either are listed whenever they were `sent`: otherwise
    /// the caller could guess their values. For a new record, `stored` is a record without fields
    /// that the caller owns. A null counts as no value.
    pub fn find_unwritable(
        &self,
        caller: &Caller,
        stored: &Record,
        (record, sent): (&Record, &Fields),
    ) -> Vec<String> {
        if !self.may_hide(caller, &record.id.record_type) {
            return Vec::new();
        }
        let name = record.id.record_type.as_str();
        let value_in = |record: &'_ Record, field: &str| {
            let value = record.fields.get(field);
            value.filter(|value| !value.is_null()).cloned()
        };
        let fields = record.fields.keys().chain(stored.fields.keys());
        let mut fields: Vec<&String> = fields.chain(sent.keys()).collect();
        fields.sort();
        fields.dedup();
        let is_refused = |field: &&&String| {
            let is_changed = value_in(stored, field) != value_in(record, field);
            let allows = |field_use| self.allows(field_use, (name, field), caller, Some(stored));
            let is_guess = || sent.contains_key(**field) && !allows(FieldUse::Read);
            !allows(FieldUse::Write) && (is_changed || is_guess())
        };
        fields
            .iter()
            .filter(is_refused)
            .map(ToString::to_string)
            .collect()
    }
}

impl FieldUserRole {
    fn is_about(&self, (caller, record): Who<'_>, names: Option<&Names>) -> bool {
        let user = caller.user.as_ref();
        match self {
            Self::Owner => record.is_some_and(|record| caller.owns(record)),
            Self::User(id) => user == Some(id),
            Self::Field(field) => {
                let field = names.map_or(Some(field.as_str()), |names| names.name_then(field));
                let at_hand = user.zip(record).zip(field);
                at_hand.is_some_and(|((user, record), field)| names_user(record, field, user))
            }
            Self::Role(role) => caller.roles.contains(role),
            Self::AnyUser => user.is_some(),
            Self::Public => true,
        }
    }
}

/// Returns whether a field is the user's id, or a list that contains it. References do not count,
/// as in v1.
fn names_user(record: &Record, field: &str, user: &UserId) -> bool {
    let reserved = match field {
        "_owner" | "_owner_id" | "_ownerID" => Some(&record.owner),
        "_created_by" => Some(&record.created_by),
        "_updated_by" => Some(&record.updated_by),
        _ => None,
    };
    if let Some(other) = reserved {
        return other.as_ref() == Some(user);
    }
    match record.fields.get(field) {
        Some(Value::String(text)) => text == user.as_str(),
        Some(Value::Json(Json::Array(items))) => items
            .iter()
            .any(|item| item.as_str() == Some(user.as_str())),
        _ => false,
    }
}
