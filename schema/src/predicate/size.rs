//! The size of a predicate, so that the server can limit what it accepts.

use super::Predicate;

/// The size of a predicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PredicateSize {
    /// Comparisons, and the operators that join them.
    pub num_nodes: usize,
    /// Nodes on the longest path from the root; 1 for a single comparison.
    pub depth: usize,
}

impl Predicate {
    /// Measures the predicate.
    pub fn size(&self) -> PredicateSize {
        let children = match self {
            Self::And(children) | Self::Or(children) => children.as_slice(),
            Self::Not(child) => std::slice::from_ref(child.as_ref()),
            Self::Compare(..) | Self::In(..) | Self::UserRelation { .. } => &[],
        };
        let mut size = PredicateSize::default();
        for child in children.iter().map(Self::size) {
            size.num_nodes += child.num_nodes;
            size.depth = size.depth.max(child.depth);
        }
        size.num_nodes += 1;
        size.depth += 1;
        size
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::predicate::parse::parse_predicate;

    #[test]
    fn nodes_and_depth_are_counted() {
        let eq = json!(["eq", {"$type": "keypath", "$val": "n"}, 1]);
        let cases = [
            (eq.clone(), (1, 1)),
            (json!(["and", eq, eq]), (3, 2)),
            (json!(["or", ["not", ["and", eq, eq]], eq]), (6, 4)),
            (
                json!(["in", {"$type": "keypath", "$val": "n"}, [1, 2, 3]]),
                (1, 1),
            ),
        ];
        for (wire, (num_nodes, depth)) in cases {
            let predicate = parse_predicate(wire.as_array().unwrap()).unwrap();
            assert_eq!(
                predicate.size(),
                PredicateSize { num_nodes, depth },
                "{wire}"
            );
        }
    }
}
