//! Predicates about a record alone.

use super::{KeyPath, Operand, Predicate, Relation};

impl Predicate {
    /// Returns the name of the first part that looks beyond the record itself: a field of a
    /// referenced record, or a relation of users.
    pub fn find_beyond_record(&self) -> Option<String> {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().find_map(Self::find_beyond_record),
            Self::Not(part) => part.find_beyond_record(),
            Self::Compare(_, left, right) | Self::In(left, right) => {
                [left, right].into_iter().find_map(beyond)
            }
            Self::UserRelation { relation, .. } => Some(match relation {
                Relation::Friend => "the relation \"_friend\"".to_owned(),
                Relation::Follow => "the relation \"_follow\"".to_owned(),
            }),
        }
    }
}

fn beyond(operand: &Operand) -> Option<String> {
    match operand {
        Operand::Path(path @ KeyPath(parts)) if parts.len() > 1 => {
            Some(format!("the keypath \"{path}\" of a referenced record"))
        }
        Operand::Path(_) | Operand::Literal(_) | Operand::Distance { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use crate::predicate::parse::parse_predicate;

    fn beyond(wire: &Json) -> Option<String> {
        let predicate = parse_predicate(wire.as_array().unwrap()).unwrap();
        predicate.find_beyond_record()
    }

    #[test]
    fn only_paths_with_dots_and_relations_look_beyond_the_record() {
        let path = |name: &str| json!({"$type": "keypath", "$val": name});
        let own = json!(["and",
            ["eq", path("n"), 1],
            ["or", ["not", ["in", path("_owner"), ["a.b"]]], ["lt", path("n"), path("m")]],
            ["lt", ["func", "distance", path("at"), {"$type": "geo", "$lat": 1, "$lng": 2}], 3],
        ]);
        assert_eq!(beyond(&own), None);
        let foreign = json!(["eq", 1, path("book.n")]);
        let relation = json!(["func", "userRelation", path("_owner"),
            {"$type": "relation", "$name": "_friend", "$direction": "outward"}]);
        for (part, name) in [(foreign, "book.n"), (relation, "_friend")] {
            for wire in [
                part.clone(),
                json!(["not", part]),
                json!(["and", own, part]),
                json!(["or", own, ["and", own, ["not", part]]]),
            ] {
                let found = beyond(&wire);
                assert!(found.is_some_and(|it| it.contains(name)), "{wire}");
            }
        }
    }
}
