//! The model of queries: what a caller may ask, and what the answer must then be.

use std::cmp::Ordering;

use serde_json::{Map, Value as Json, json};

use super::model::{Model, Rec, Scope, Use, Viewer, within};

/// A condition. Paths have one or two components; literals are wire values.
#[derive(Clone, Debug)]
pub enum Pred {
    Compare(&'static str, String, Json),
    /// A prefix match.
    Like(String, String),
    In(String, Vec<Json>),
    JsonIn(String, String),
    /// Within a thousand metres of the origin.
    Near(String),
    /// `userRelation`: field, name, direction.
    Related(String, &'static str, &'static str),
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
}

#[derive(Clone, Debug)]
pub struct Search {
    pub kind: String,
    pub predicate: Option<Pred>,
    /// Fields, with `loc` for the distance from the origin; whether descending.
    pub sort: Vec<(String, bool)>,
    /// Names and paths; `loc` for the distance.
    pub include: Vec<(String, String)>,
    pub desired: Option<Vec<String>>,
    pub count: bool,
    pub limit: Option<usize>,
    pub offset: usize,
}

/// Stands for metres that are not compared exactly: a location is either the origin or far away.
pub const FAR: &str = "<far>";

/// The expected result of a query: every match with what is shown of it, in the order that was
/// asked for, if any.
pub struct Matches {
    pub all: Vec<(Vec<Json>, Map<String, Json>)>,
}

impl Model {
    /// Returns the field that the caller may not use as the query does, with the right that it
    /// would need.
    pub fn forbidden(&self, viewer: &Viewer, search: &Search) -> Option<(String, &'static str)> {
        let mut uses = Vec::new();
        if let Some(predicate) = &search.predicate {
            predicate.uses(Use::Discover, &mut uses);
        }
        uses.extend(
            search
                .sort
                .iter()
                .map(|(field, _)| (field.clone(), Use::Compare)),
        );
        let mut include = search.include.clone();
        include.sort();
        uses.extend(include.into_iter().map(|(_, path)| (path, Use::Read)));
        for (path, field_use) in uses {
            let need = match field_use {
                Use::Discover => "discoverable or comparable",
                Use::Compare => "comparable",
                _ => "readable",
            };
            let (first, second) = match path.split_once('.') {
                Some((first, second)) => (first, Some(second)),
                None => (path.as_str(), None),
            };
            let mut parts = vec![(search.kind.as_str(), first)];
            parts.extend(second.map(|second| ("item", second)));
            for (kind, field) in parts {
                if !self.field(viewer, field_use, (kind, field), None) {
                    return Some((field.to_owned(), need));
                }
            }
        }
        None
    }

    pub fn search(&self, viewer: &Viewer, scope: &Scope, search: &Search) -> Matches {
        let fits = |record: &&Rec| {
            let predicate = search.predicate.as_ref();
            record.kind == search.kind
                && self.in_sight(viewer, scope, record)
                && predicate.is_none_or(|it| it.holds(self, viewer, scope, record) == Some(true))
        };
        let keys = |record: &Rec| {
            search
                .sort
                .iter()
                .map(|(field, _)| sort_key(record, field))
                .collect()
        };
        let mut all: Vec<(Vec<Json>, &Rec)> = self
            .records
            .values()
            .filter(fits)
            .map(|record| (keys(record), record))
            .collect();
        all.sort_by(|(left, _), (right, _)| {
            let pairs = left.iter().zip(right).zip(&search.sort);
            let orders = pairs.map(|((left, right), (_, down))| in_order(left, right, *down));
            orders.fold(Ordering::Equal, Ordering::then)
        });
        let all = all
            .into_iter()
            .map(|(keys, record)| (keys, self.found(viewer, scope, search, record)));
        Matches { all: all.collect() }
    }

    fn found(
        &self,
        viewer: &Viewer,
        scope: &Scope,
        search: &Search,
        record: &Rec,
    ) -> Map<String, Json> {
        let mut wire = self.shown(viewer, record);
        if let Some(desired) = &search.desired {
            wire.retain(|name, _| name.starts_with('_') || desired.contains(name));
        }
        let mut brought = Map::new();
        for (name, path) in &search.include {
            let readable = self.field(viewer, Use::Read, (&record.kind, path), Some(record));
            if path == "loc" {
                if let Some(metres) = metres(record).filter(|_| readable) {
                    brought.insert(name.clone(), metres);
                }
                continue;
            }
            let target = self.target(record, path).filter(|_| readable);
            let target = target.filter(|target| {
                within(scope, target)
                    && (matches!(scope, Scope::Private(_)) || self.may(viewer, false, target))
            });
            let target = target.map(|target| self.shown(viewer, target));
            brought.insert(name.clone(), target.map_or(Json::Null, Json::Object));
        }
        if !brought.is_empty() {
            wire.insert("_transient".into(), brought.into());
        }
        wire
    }

    fn target(&self, record: &Rec, path: &str) -> Option<&Rec> {
        match path {
            "_owner" | "_owner_id" => self.record("user", &record.owner),
            "_created_by" => self.record("user", &record.created_by),
            "_updated_by" => self.record("user", &record.updated_by),
            "r" => self.record(
                "item",
                record.fields.get("r")?["$id"]
                    .as_str()?
                    .strip_prefix("item/")?,
            ),
            _ => None,
        }
    }

    /// Returns the value at a path. A reference leads nowhere if the caller may not see its target.
    fn value(&self, viewer: &Viewer, scope: &Scope, record: &Rec, path: &str) -> Option<Json> {
        let Some((first, second)) = path.split_once('.') else {
            return match path {
                "_id" => Some(json!(record.key)),
                "_owner" | "_owner_id" => Some(json!(record.owner)),
                "_created_by" => Some(json!(record.created_by)),
                "_updated_by" => Some(json!(record.updated_by)),
                "r" => Some(json!(
                    record.fields.get("r")?["$id"]
                        .as_str()?
                        .strip_prefix("item/")?
                )),
                field => record.fields.get(field).cloned(),
            };
        };
        let target = self.target(record, first)?;
        let own = matches!(scope, Scope::Private(user) if target.database == *user);
        let seen = viewer.master || own || self.in_sight(viewer, &Scope::Public, target);
        self.value(viewer, scope, target, second).filter(|_| seen)
    }
}

impl Pred {
    /// Collects every path with the right that it needs: plain equality keeps `field_use`, anything
    /// else needs `Use::Compare`.
    fn uses(&self, field_use: Use, uses: &mut Vec<(String, Use)>) {
        match self {
            Self::Compare("eq", path, _) | Self::In(path, _) | Self::JsonIn(path, _) => {
                uses.push((path.clone(), field_use));
            }
            Self::Compare(_, path, _) | Self::Like(path, _) | Self::Near(path) => {
                uses.push((path.clone(), Use::Compare));
            }
            Self::Related(path, _, _) => uses.push((path.clone(), Use::Compare)),
            Self::And(parts) => parts.iter().for_each(|part| part.uses(field_use, uses)),
            Self::Or(parts) => parts.iter().for_each(|part| part.uses(Use::Compare, uses)),
            Self::Not(part) => part.uses(Use::Compare, uses),
        }
    }

    /// Three-valued logic, as in SQL.
    pub fn holds(
        &self,
        model: &Model,
        viewer: &Viewer,
        scope: &Scope,
        record: &Rec,
    ) -> Option<bool> {
        let value = |path: &str| model.value(viewer, scope, record, path);
        let each = |parts: &[Self]| {
            parts
                .iter()
                .map(|it| it.holds(model, viewer, scope, record))
                .collect::<Vec<_>>()
        };
        match self {
            Self::Compare("eq", path, Json::Null) => Some(value(path).is_none()),
            Self::Compare("neq", path, Json::Null) => Some(value(path).is_some()),
            Self::Compare(op, path, literal) => {
                let literal = literal["$id"].as_str().map_or_else(
                    || literal.clone(),
                    |id| json!(id.trim_start_matches("item/")),
                );
                let order = compare(&value(path)?, &literal);
                Some(match *op {
                    "eq" => order.is_eq(),
                    "neq" => order.is_ne(),
                    "gt" => order.is_gt(),
                    "gte" => order.is_ge(),
                    "lt" => order.is_lt(),
                    _ => order.is_le(),
                })
            }
            Self::Like(path, prefix) => Some(value(path)?.as_str()?.starts_with(prefix)),
            Self::In(_, list) if list.is_empty() => None,
            Self::In(path, list) => {
                let value = value(path)?;
                Some(list.iter().any(|item| compare(&value, item).is_eq()))
            }
            Self::JsonIn(path, text) => {
                Some(value(path)?.as_array()?.iter().any(|item| item == text))
            }
            Self::Near(_) => Some(metres(record)? == json!(0)),
            Self::Related(path, name, direction) => {
                let (Some(me), Some(other)) = (&viewer.user, value(path)) else {
                    return Some(false);
                };
                let other = other.as_str()?.to_owned();
                let out = model
                    .relations
                    .contains(&(name.to_string(), me.clone(), other.clone()));
                let back = model
                    .relations
                    .contains(&(name.to_string(), other, me.clone()));
                Some(match *direction {
                    "outward" => out,
                    "inward" => back,
                    _ => out && back,
                })
            }
            Self::And(parts) => {
                let parts = each(parts);
                if parts.contains(&Some(false)) {
                    Some(false)
                } else {
                    (!parts.contains(&None)).then_some(true)
                }
            }
            Self::Or(parts) => {
                let parts = each(parts);
                if parts.contains(&Some(true)) {
                    Some(true)
                } else {
                    (!parts.contains(&None)).then_some(false)
                }
            }
            Self::Not(part) => part.holds(model, viewer, scope, record).map(|holds| !holds),
        }
    }

    pub fn wire(&self) -> Json {
        let path = |path: &str| json!({"$type": "keypath", "$val": path});
        let parts = |op: &str, parts: &[Self]| {
            let parts = parts.iter().map(Self::wire);
            std::iter::once(json!(op)).chain(parts).collect::<Json>()
        };
        match self {
            Self::Compare(op, field, literal) => json!([op, path(field), literal]),
            Self::Like(field, prefix) => json!(["like", path(field), format!("{prefix}%")]),
            Self::In(field, list) => json!(["in", path(field), list]),
            Self::JsonIn(field, text) => json!(["in", text, path(field)]),
            Self::Near(field) => json!(["lt", distance(field), 1000]),
            Self::Related(field, name, direction) => {
                let relation = json!({"$type": "relation", "$name": format!("_{name}"), "$direction": direction});
                json!(["func", "userRelation", path(field), relation])
            }
            Self::And(all) => parts("and", all),
            Self::Or(all) => parts("or", all),
            Self::Not(part) => json!(["not", part.wire()]),
        }
    }
}

impl Search {
    pub fn wire(&self) -> Map<String, Json> {
        let operand = |field: &str| match field {
            "loc" => distance(field),
            field => json!({"$type": "keypath", "$val": field}),
        };
        let sort = self.sort.iter();
        let sort =
            sort.map(|(field, down)| json!([operand(field), if *down { "desc" } else { "asc" }]));
        let include = self
            .include
            .iter()
            .map(|(name, path)| (name.clone(), operand(path)));
        let wire = json!({
            "record_type": self.kind,
            "predicate": self.predicate.as_ref().map(Pred::wire),
            "sort": sort.collect::<Json>(),
            "include": include.collect::<Map<_, _>>(),
            "desired_keys": self.desired,
            "count": self.count,
            "limit": self.limit,
            "offset": self.offset,
        });
        wire.as_object().unwrap().clone()
    }
}

fn distance(field: &str) -> Json {
    let path = json!({"$type": "keypath", "$val": field});
    json!(["func", "distance", path, {"$type": "geo", "$lng": 0, "$lat": 0}])
}

fn metres(record: &Rec) -> Option<Json> {
    let place = record.fields.get("loc")?;
    Some(if place["$lng"] == 0 {
        json!(0)
    } else {
        json!(FAR)
    })
}

fn sort_key(record: &Rec, field: &str) -> Json {
    match field {
        "loc" => metres(record).map_or(Json::Null, |metres| json!(i32::from(metres != 0))),
        "_id" => json!(record.key),
        "_owner_id" => json!(record.owner),
        field => record.fields.get(field).cloned().unwrap_or_default(),
    }
}

fn compare(left: &Json, right: &Json) -> Ordering {
    match (left.as_str(), right.as_str()) {
        (Some(left), Some(right)) => left.cmp(right),
        _ => left.as_f64().partial_cmp(&right.as_f64()).unwrap(),
    }
}

/// Nulls are last when ascending.
fn in_order(left: &Json, right: &Json, down: bool) -> Ordering {
    let order = match (left.is_null(), right.is_null()) {
        (false, false) => compare(left, right),
        (left, right) => left.cmp(&right),
    };
    if down { order.reverse() } else { order }
}
