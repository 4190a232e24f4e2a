//! Finds which tables are record types, the types of their fields, and the order to import them in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;
use skytrail_schema::id::TypeName;
use skytrail_schema::types::FieldType;

use super::source::{Reading, Row, Select, Source};

/// The columns that every table of records has.
pub(super) const SYSTEM: [(&str, Reading); 8] = [
    ("_id", Reading::Plain),
    ("_database_id", Reading::Plain),
    ("_owner_id", Reading::Plain),
    ("_access", Reading::Plain),
    ("_created_at", Reading::Time),
    ("_created_by", Reading::Plain),
    ("_updated_at", Reading::Time),
    ("_updated_by", Reading::Plain),
];
const ASSETS: &str = "_asset";

/// A table of records.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: TypeName,
    pub(super) fields: BTreeMap<String, FieldType>,
    pub(super) unique: Vec<Vec<String>>,
    pub(super) counters: BTreeMap<String, i64>,
    /// Whether its records may refer to records that are imported later.
    pub(super) is_cyclic: bool,
}

/// All tables, in the order in which they are imported.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) tables: Vec<Table>,
    /// What is left out, and why: table, column or constraint, reason.
    pub(super) left_out: Vec<(String, String, String)>,
    /// The columns of the tables that do not hold records.
    pub(super) others: BTreeMap<String, BTreeSet<String>>,
}

impl Table {
    /// Returns what to read from the table.
    pub(super) fn selects(&self) -> Vec<Select> {
        let select = |column: &str, reading| Select {
            column: column.to_owned(),
            reading,
        };
        let system = SYSTEM.iter();
        let system = system.map(|(column, reading)| select(column, *reading));
        let fields = self.fields.iter();
        let fields = fields.map(|(column, kind)| {
            let reading = match kind {
                FieldType::DateTime => Reading::Time,
                FieldType::Location => Reading::Point,
                FieldType::Geometry => Reading::Shape,
                _ => Reading::Plain,
            };
            select(column, reading)
        });
        system.chain(fields).collect()
    }

    fn targets(&self) -> impl Iterator<Item = &TypeName> {
        self.fields.values().filter_map(|kind| match kind {
            FieldType::Reference(target) => Some(target),
            _ => None,
        })
    }
}

impl Layout {
    /// Reads the layout.
    pub(super) async fn read(source: &mut Source) -> Result<Self, String> {
        let mut tables: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for column in source.columns().await? {
            let table = text(&column, "table").to_owned();
            tables.entry(table).or_default().push(column);
        }
        let is_record_table = |columns: &[Row]| {
            let has = |name: &str| columns.iter().any(|column| text(column, "column") == name);
            SYSTEM.iter().all(|(name, _)| has(name))
        };
        let (records, others): (BTreeMap<_, _>, BTreeMap<_, _>) = tables
            .into_iter()
            .partition(|(_, columns)| is_record_table(columns));
        let mut layout = Self::default();
        for (name, columns) in others {
            let columns = columns.iter().map(|it| text(it, "column").to_owned());
            layout.others.insert(name, columns.collect());
        }
        let names: BTreeSet<String> = records.keys().cloned().collect();
        let mut found = BTreeMap::new();
        for (name, columns) in records {
            let table = layout.table(source, &name, &columns, &names).await?;
            found.insert(TypeName::from(name.as_str()), table);
        }
        for set in source.unique().await? {
            layout.add_unique(&mut found, &set);
        }
        layout.tables = in_order(found);
        Ok(layout)
    }

    async fn table(
        &mut self,
        source: &mut Source,
        name: &str,
        columns: &[Row],
        tables: &BTreeSet<String>,
    ) -> Result<Table, String> {
        let mut table = Table {
            name: name.into(),
            fields: BTreeMap::new(),
            unique: Vec::new(),
            counters: BTreeMap::new(),
            is_cyclic: false,
        };
        for column in columns {
            let field = text(column, "column");
            if SYSTEM.iter().any(|(system, _)| *system == field) {
                continue;
            }
            let reason = if field.starts_with('_') {
                "fields that start with _ are reserved".to_owned()
            } else {
                match field_type(column, tables) {
                    Some(kind) => {
                        if kind == FieldType::Sequence
                            && let Some(last) = source.last_number(text(column, "sequence")).await?
                        {
                            table.counters.insert(field.to_owned(), last);
                        }
                        table.fields.insert(field.to_owned(), kind);
                        continue;
                    }
                    None => format!("{} has no counterpart", text(column, "form")),
                }
            };
            let field = format!("column {field}");
            self.left_out.push((name.to_owned(), field, reason));
        }
        Ok(table)
    }

    fn add_unique(&mut self, tables: &mut BTreeMap<TypeName, Table>, set: &Row) {
        let name = TypeName::from(text(set, "table"));
        let Some(table) = tables.get_mut(&name) else {
            return;
        };
        let columns = set.get("columns").and_then(Json::as_array);
        let columns: Vec<&str> = columns
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect();
        if columns == ["_id"] {
            return;
        }
        // A sequence is unique anyway.
        if let [column] = columns.as_slice()
            && table.fields.get(*column) == Some(&FieldType::Sequence)
        {
            return;
        }
        if columns
            .iter()
            .all(|column| table.fields.contains_key(*column))
        {
            let set = columns.into_iter().map(str::to_owned).collect();
            table.unique.push(set);
            return;
        }
        let constraint = format!("constraint {}", text(set, "name"));
        let reason = "only fields can form a unique constraint".to_owned();
        self.left_out.push((name.to_string(), constraint, reason));
    }
}

/// Returns the field type of a column.
fn field_type(column: &Row, tables: &BTreeSet<String>) -> Option<FieldType> {
    let target = column.get("target").and_then(Json::as_str);
    let has_sequence = column.get("sequence").is_some_and(Json::is_string);
    Some(match text(column, "type") {
        "text" | "varchar" | "bpchar" => match target {
            Some(ASSETS) => FieldType::Asset,
            Some(target) if tables.contains(target) => FieldType::Reference(target.into()),
            _ => FieldType::String,
        },
        "citext" => FieldType::CaselessString,
        "int2" | "int4" | "int8" if has_sequence => FieldType::Sequence,
        "int2" | "int4" => FieldType::Integer,
        "int8" | "float4" | "float8" | "numeric" => FieldType::Number,
        "bool" => FieldType::Boolean,
        "json" | "jsonb" => FieldType::Json,
        "timestamp" | "timestamptz" => FieldType::DateTime,
        "geometry" if text(column, "form").contains("(Point") => FieldType::Location,
        "geometry" => FieldType::Geometry,
        _ => return None,
    })
}

/// Orders tables so that a table comes after those that it refers to; what is left are cycles.
fn in_order(mut tables: BTreeMap<TypeName, Table>) -> Vec<Table> {
    let mut first = Vec::new();
    while let Some(name) = tables
        .values()
        .find(|table| table.targets().all(|target| !tables.contains_key(target)))
        .map(|table| table.name.clone())
    {
        first.extend(tables.remove(&name));
    }
    let mut last = Vec::new();
    while let Some(name) = tables
        .keys()
        .find(|name| {
            let mut targets = tables.values().flat_map(Table::targets);
            targets.all(|target| target != *name)
        })
        .cloned()
    {
        last.extend(tables.remove(&name));
    }
    let circles = tables.into_values().map(|table| Table {
        is_cyclic: true,
        ..table
    });
    first.extend(circles);
    first.extend(last.into_iter().rev());
    first
}

/// Returns a string in a row; an empty one if there is none.
pub(super) fn text<'a>(row: &'a Row, name: &str) -> &'a str {
    row.get(name).and_then(Json::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, targets: &[&str]) -> (TypeName, Table) {
        let fields = targets.iter();
        let fields = fields.map(|target| {
            let kind = FieldType::Reference((*target).into());
            (format!("to {target}"), kind)
        });
        let table = Table {
            name: name.into(),
            fields: fields.collect(),
            unique: Vec::new(),
            counters: BTreeMap::new(),
            is_cyclic: false,
        };
        (name.into(), table)
    }

    #[test]
    fn what_is_referred_to_comes_first_and_circles_are_told() {
        let tables = [
            table("a_receipt", &["message", "user"]),
            table("message", &["conversation"]),
            table("conversation", &["message", "user"]),
            table("user", &[]),
            table("tree", &["tree"]),
            table("z_city", &["land"]),
            table("land", &[]),
        ];
        let ordered = in_order(tables.into());
        let ordered: Vec<(&str, bool)> = ordered
            .iter()
            .map(|table| (table.name.as_str(), table.is_cyclic))
            .collect();
        let expected = [
            ("land", false),
            ("user", false),
            ("z_city", false),
            ("conversation", true),
            ("message", true),
            ("tree", true),
            ("a_receipt", false),
        ];
        assert_eq!(ordered, expected);
    }
}
