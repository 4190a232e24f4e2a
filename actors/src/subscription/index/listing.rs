//! The subscriptions about one record type in one database, by what a record must have to match them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use skytrail_schema::id::DeviceId;
use skytrail_schema::predicate::{CellForm, FieldForm, Necessity, Predicate};
use skytrail_schema::query::Query;
use skytrail_schema::record::Record;
use skytrail_schema::subscription::SubscriptionKey;

/// What identifies a subscription.
pub(super) type Name = Arc<(DeviceId, SubscriptionKey)>;

/// See the module's overview.
///
/// A subscription for which something is necessary is listed under that. If there is a choice, such
/// as for the parts of an `and`, it is listed where there are the fewest so far.
#[derive(Debug, Default)]
pub(super) struct Listing {
    all: BTreeSet<Name>,
    /// Those that no cell excludes.
    others: BTreeSet<Name>,
    by_column: HashMap<String, HashMap<CellForm, BTreeSet<Name>>>,
}

impl Listing {
    pub(super) fn add(&mut self, name: &Name, query: &Query) {
        self.all.insert(Arc::clone(name));
        let necessities = necessities(query);
        let shortest = |necessity: &Necessity| -> usize {
            let lengths = necessity.iter().map(|entry| self.num_listed(entry));
            lengths.sum::<usize>() + necessity.len()
        };
        let Some(necessity) = necessities.into_iter().min_by_key(shortest) else {
            self.others.insert(Arc::clone(name));
            return;
        };
        for (column, form) in necessity {
            let of_column = self.by_column.entry(column).or_default();
            of_column.entry(form).or_default().insert(Arc::clone(name));
        }
    }

    pub(super) fn remove(&mut self, name: &Name, query: &Query) {
        self.all.remove(name);
        self.others.remove(name);
        for (column, form) in necessities(query).into_iter().flatten() {
            let Some(of_column) = self.by_column.get_mut(&column) else {
                continue;
            };
            if let Some(names) = of_column.get_mut(&form) {
                names.remove(name);
                if names.is_empty() {
                    of_column.remove(&form);
                }
            }
            if of_column.is_empty() {
                self.by_column.remove(&column);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether some subscription cannot match all records.
    pub(super) fn is_selective(&self) -> bool {
        !self.by_column.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Name> {
        self.all.iter()
    }

    /// Returns the subscriptions that one of the states of a record may match, each once and in
    /// order.
    pub(super) fn matching(&self, states: &[&Record]) -> Vec<&Name> {
        let mut found: Vec<&Name> = self.others.iter().collect();
        for (column, by_form) in &self.by_column {
            let forms: BTreeSet<CellForm> = states
                .iter()
                .filter_map(|state| CellForm::read(state, column))
                .collect();
            let listed = forms.iter().filter_map(|form| by_form.get(form));
            found.extend(listed.flatten());
        }
        // The others are in order already, so this is fast if nothing else was found.
        found.sort();
        found.dedup();
        found
    }

    fn num_listed(&self, (column, form): &FieldForm) -> usize {
        let of_column = self.by_column.get(column);
        let names = of_column.and_then(|of_column| of_column.get(form));
        names.map_or(0, BTreeSet::len)
    }
}

fn necessities(query: &Query) -> Vec<Necessity> {
    let predicate = query.predicate.as_ref();
    predicate.map_or_else(Vec::new, Predicate::necessities)
}
