//! Rules carried back, checked against a model that identifies fields by number instead of name.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::caller::Caller;
use crate::field_access::{FieldAccess, FieldAccessEntry, FieldUserRole};
use crate::id::{Database, RecordId, TypeName};
use crate::record::Record;
use crate::time::Timestamp;
use crate::value::Value;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const USES: [FieldUse; 4] = [
    FieldUse::Read,
    FieldUse::Write,
    FieldUse::Compare,
    FieldUse::Discover,
];

#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    Rename(usize, usize),
    Delete(usize),
    SetRules(Vec<FieldAccessEntry>),
    Nothing,
}

fn name() -> impl Strategy<Value = usize> {
    0..NAMES.len()
}

fn entry() -> impl Strategy<Value = FieldAccessEntry> {
    let of_type = prop_oneof![4 => Just("note"), 2 => Just("*"), 1 => Just("page")];
    let field = prop_oneof![5 => prop::sample::select(&NAMES[..]), 1 => Just("*")];
    let role = prop_oneof![
        2 => Just("_public".to_owned()),
        1 => Just("_any_user".to_owned()),
        1 => Just("_owner".to_owned()),
        3 => prop::sample::select(&NAMES[..]).prop_map(|field| format!("_field:{field}")),
    ];
    let flags = prop::array::uniform4(any::<bool>());
    (of_type, field, role, flags).prop_map(|(of_type, field, role, flags)| {
        let [writable, readable, comparable, discoverable] = flags;
        FieldAccessEntry {
            record_type: of_type.to_owned(),
            record_field: field.to_owned(),
            user_role: FieldUserRole::parse(&role).unwrap(),
            writable,
            readable,
            comparable,
            discoverable,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => name().prop_map(Step::Add),
        4 => (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => name().prop_map(Step::Delete),
        2 => prop::collection::vec(entry(), 0..10).prop_map(Step::SetRules),
        1 => Just(Step::Nothing),
    ]
}

fn with_uses<T: Copy>(of: T) -> impl Iterator<Item = (T, FieldUse)> {
    USES.into_iter().map(move |field_use| (of, field_use))
}

/// A type whose fields are identified by numbers.
#[derive(Clone, Default)]
struct Model {
    fields: BTreeMap<&'static str, usize>,
    num_fields: usize,
    access: FieldAccess,
    /// The last names of deleted fields, and the whole model right before the deletion.
    gone: BTreeMap<usize, (&'static str, Box<Model>)>,
}

impl Model {
    /// Applies the step, if the type would accept it.
    fn take(&mut self, step: &Step) -> Option<Reshaping> {
        match step {
            Step::Add(name) => {
                self.num_fields += 1;
                self.fields.entry(NAMES[*name]).or_insert(self.num_fields);
                None
            }
            Step::Rename(from, to) => {
                let (from, to) = (NAMES[*from], NAMES[*to]);
                if self.fields.contains_key(to) {
                    return None;
                }
                let field = self.fields.remove(from)?;
                self.fields.insert(to, field);
                let access = self.access.with_renamed_field("note", from, to);
                self.access = access.unwrap_or_else(|| self.access.clone());
                let (from, to) = (from.to_owned(), to.to_owned());
                Some(Reshaping::Renamed { from, to })
            }
            Step::Delete(name) => {
                let name = NAMES[*name];
                let before = Box::new(self.clone());
                let field = self.fields.remove(name)?;
                self.gone.insert(field, (name, before));
                let rules = Arc::new(FieldRules::new(&self.access));
                let field = name.to_owned();
                Some(Reshaping::Deleted { field, rules })
            }
            Step::SetRules(entries) => {
                self.access = FieldAccess(entries.clone());
                None
            }
            Step::Nothing => None,
        }
    }

    fn name_of(&self, field: usize) -> Option<&'static str> {
        let mut fields = self.fields.iter();
        fields.find_map(|(name, known)| (*known == field).then_some(*name))
    }

    /// Returns a record with these field values, under the current names.
    fn record(&self, values: &BTreeMap<usize, &str>) -> Record {
        let fields = self.fields.iter();
        let fields = fields.filter_map(|(name, field)| {
            let value = Value::from_wire(json!(values.get(field)?)).unwrap();
            Some(((*name).to_owned(), value))
        });
        Record {
            id: RecordId::new("note", "1"),
            database: Database::Public,
            owner: Some("u0".into()),
            access: None,
            created_at: Timestamp::from_micros(0),
            created_by: None,
            updated_at: Timestamp::from_micros(0),
            updated_by: None,
            fields: fields.collect(),
        }
    }

    /// Returns what the current rules say about a current name; nothing is carried over.
    fn says(
        &self,
        field_use: FieldUse,
        name: &str,
        caller: &Caller,
        values: Option<&BTreeMap<usize, &str>>,
    ) -> bool {
        let record = values.map(|values| self.record(values));
        let rules = FieldRules::new(&self.access);
        rules.allows(field_use, ("note", name), caller, record.as_ref())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_field_of_then_is_held_against_the_rules_for_what_it_is(
        earlier in prop::collection::vec(step(), 0..8),
        later in prop::collection::vec(step(), 0..12),
        users in prop::array::uniform5(0..3_usize),
        users_today in prop::array::uniform5(0..3_usize),
    ) {
        let mut model = Model::default();
        for number in 0..3 {
            model.take(&Step::Add(number));
        }
        for step in &earlier {
            model.take(step);
        }
        // Every field of the earlier time names a user.
        let named = |user: usize| ["u0", "u1", "u2"][user];
        let (users, users_today) = (users.map(named), users_today.map(named));
        let then = model.clone();
        let values = then.fields.values().copied().zip(users).collect();
        let since: Vec<Reshaping> = later.iter().filter_map(|step| model.take(step)).collect();
        // So do the fields of today, some of which are the same.
        let values_today = model.fields.values().copied().zip(users_today).collect();
        let mut rules = FieldRules::new(&model.access);
        rules.carry_back(&TypeName::from("note"), &since);

        let named = |user: &str| Caller { user: Some(user.into()), ..Caller::default() };
        for caller in [Caller::default(), named("u0"), named("u1"), named("u2")] {
            let whole = then.record(&values);
            let mut seen = whole.clone();
            rules.hide_unreadable(&caller, &mut seen);
            let mut seen_today = whole.clone();
            rules.hide_unseen(&caller, &mut seen_today, Some(&model.record(&values_today)));
            for (name, field) in &then.fields {
                for values in [None, Some(&values)] {
                    let record = values.map(|_| &whole);
                    for field_use in USES {
                        let expected = match model.name_of(*field) {
                            Some(today) => model.says(field_use, today, &caller, values),
                            None => {
                                let (last, before) = &model.gone[field];
                                before.says(field_use, last, &caller, values)
                                    && model.says(field_use, last, &caller, values)
                            }
                        };
                        let got = rules.allows(field_use, ("note", name), &caller, record);
                        prop_assert_eq!(got, expected, "{} {:?} {:?}", name, field_use, since);
                    }
                }
                let is_seen = rules.allows(FieldUse::Read, ("note", name), &caller, Some(&whole));
                prop_assert_eq!(seen.fields.contains_key(*name), is_seen, "{}", name);
                let (field_use, values) = (FieldUse::Read, Some(&values_today));
                let has = seen_today.fields.contains_key(*name);
                match model.name_of(*field) {
                    Some(today) => {
                        let says = model.says(field_use, today, &caller, values);
                        prop_assert_eq!(has, is_seen && says, "{}", name);
                    }
                    None => {
                        let (last, before) = &model.gone[field];
                        let says = model.says(field_use, last, &caller, values);
                        prop_assert!(!has || is_seen && says, "{}", name);
                        // A rule of the earlier time may name a field that was added since: the
                        // changes of a type's fields do not tell which those are.
                        if model.num_fields == then.num_fields {
                            let said = before.says(field_use, last, &caller, values);
                            prop_assert_eq!(has, is_seen && says && said, "{}", name);
                        }
                    }
                }
            }
        }
        // Rules of other types are not affected.
        let today = FieldRules::new(&model.access);
        for name in NAMES {
            let ask = |rules: &FieldRules| {
                rules.allows(FieldUse::Read, ("page", name), &Caller::default(), None)
            };
            prop_assert_eq!(ask(&rules), ask(&today));
        }
    }

    #[test]
    fn a_rename_changes_nobodys_access(
        entries in prop::collection::vec(entry(), 0..10),
        (from, to) in (name(), name()).prop_filter("other", |(from, to)| from != to),
        users in prop::array::uniform5(0..3_usize),
    ) {
        let mut model = Model::default();
        for number in (0..NAMES.len()).filter(|number| *number != to) {
            model.take(&Step::Add(number));
        }
        let users = users.map(|user| ["u0", "u1", "u2"][user]);
        let values = model.fields.values().copied().zip(users).collect();
        // If several fields name users, the alphabetical order of the fields' names can decide. So
        // only rules about users that one field names are kept.
        let mut entries = entries;
        let old = FieldUserRole::Field(NAMES[from].to_owned());
        let is_one = |entry: &FieldAccessEntry| match &entry.user_role {
            FieldUserRole::Field(_) => entry.user_role == old,
            _ => true,
        };
        entries.retain(is_one);
        model.take(&Step::SetRules(entries.clone()));
        let before = model.clone();
        prop_assert!(model.take(&Step::Rename(from, to)).is_some());
        let is_about = |entry: &FieldAccessEntry| {
            ["note", "*"].contains(&&*entry.record_type)
                && [NAMES[from], "*"].contains(&&*entry.record_field)
        };
        let is_open = !entries.iter().any(is_about);

        let named = |user: &str| Caller { user: Some(user.into()), ..Caller::default() };
        for caller in [Caller::default(), named("u0"), named("u1"), named("u2")] {
            for (name, field) in &before.fields {
                // A field without any rule may be closed by the rules for its new name.
                if is_open && *name == NAMES[from] {
                    continue;
                }
                let today = model.name_of(*field).unwrap();
                for (values, field_use) in [None, Some(&values)].into_iter().flat_map(with_uses) {
                    let was = before.says(field_use, name, &caller, values);
                    let is = model.says(field_use, today, &caller, values);
                    prop_assert_eq!(is, was, "{} {:?} {:?}", name, field_use, model.access);
                }
            }
            for name in NAMES {
                let may = |model: &Model| {
                    let rules = FieldRules::new(&model.access);
                    USES.map(|field_use| rules.allows(field_use, ("page", name), &caller, None))
                };
                prop_assert_eq!(may(&before), may(&model));
            }
        }
    }

    #[test]
    fn no_change_of_names_opens_what_is_closed(
        of_type in prop::sample::select(vec!["note", "*"]),
        steps in prop::collection::vec(
            step().prop_filter("rules stay", |step| !matches!(step, Step::SetRules(_))),
            0..16,
        ),
    ) {
        let mut model = Model::default();
        for number in 0..3 {
            model.take(&Step::Add(number));
        }
        let closed = FieldAccessEntry {
            record_type: of_type.to_owned(),
            record_field: "a".to_owned(),
            user_role: FieldUserRole::Public,
            writable: false,
            readable: false,
            comparable: false,
            discoverable: false,
        };
        model.take(&Step::SetRules(vec![closed]));
        let mut moments = vec![(model.clone(), Vec::new())];
        let secret = model.fields["a"];
        for step in &steps {
            let Some(change) = model.take(step) else { continue };
            for (_, since) in &mut moments {
                since.push(change.clone());
            }
            moments.push((model.clone(), Vec::new()));
        }
        for (then, since) in moments {
            let mut rules = FieldRules::new(&model.access);
            rules.carry_back(&TypeName::from("note"), &since);
            let Some(name) = then.name_of(secret) else { continue };
            for field_use in USES {
                let caller = Caller::default();
                prop_assert!(!rules.allows(field_use, ("note", name), &caller, None), "{}", name);
            }
        }
    }
}
