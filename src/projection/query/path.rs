//! Key paths as columns: which table and column, and how its values compare.

use std::collections::BTreeMap;

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::predicate::KeyPath;
use skytrail_schema::types::FieldType;

use crate::projection::layout::{Catalog, Column, Table};
use crate::projection::names::Name;
use crate::projection::sql::Sql;

/// How the values of a column compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Text, byte by byte: strings, keys, user ids, names of assets.
    Text,
    /// Text in its folded form.
    Folded,
    /// Floats.
    Number,
    /// Whole numbers.
    Whole,
    /// Truth values, as 0 and 1.
    Boolean,
    /// Microseconds.
    Time,
    /// JSON as text.
    Json,
    /// A point as JSON.
    Point,
    /// GeoJSON.
    Geometry,
}

/// A column of the queried table or of one that it refers to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// Which joined table; `None` for the queried one.
    pub(super) join: Option<usize>,
    /// The column: a system column's own name, or a field's.
    pub(super) column: ColumnName,
    /// How it compares.
    pub(super) class: Class,
    /// Whether it can be NULL.
    pub(super) is_nullable: bool,
}

/// A column's name in SQL.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ColumnName {
    /// One that every record table has.
    System(&'static str),
    /// One that belongs to a field.
    Field(Name),
}

impl ColumnName {
    /// Returns the name as the database's catalog has it.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::System(name) => name,
            Self::Field(name) => name.as_str(),
        }
    }
}

impl Place {
    /// Adds the column to a statement.
    pub(super) fn push(&self, sql: &mut Sql) {
        match self.join {
            None => sql.push("t."),
            Some(number) => sql.alias('j', number).push("."),
        };
        match &self.column {
            ColumnName::System(name) => sql.push(name),
            ColumnName::Field(name) => sql.name(name),
        };
    }
}

/// Finds the columns of key paths, and remembers which tables must be joined.
pub(super) struct Paths<'a> {
    catalog: &'a Catalog,
    table: &'a Table,
    /// Reference column to the table it leads to, by the number of the join.
    joins: Vec<(Name, Name)>,
    /// Reference field to the number of its join.
    by_field: BTreeMap<String, usize>,
}

impl<'a> Paths<'a> {
    /// Starts for queries of `table`.
    pub(super) fn new(catalog: &'a Catalog, table: &'a Table) -> Self {
        Self {
            catalog,
            table,
            joins: Vec::new(),
            by_field: BTreeMap::new(),
        }
    }

    /// Finds the column of a path.
    ///
    /// # Errors
    /// 120, with v1's texts.
    pub(super) fn resolve(&mut self, path: &KeyPath) -> Result<Place, ApiError> {
        match path.0.as_slice() {
            [field] => find(self.table, field, None).ok_or_else(|| unknown(path)),
            [reference, field] => self.resolve_joined(path, reference, field),
            _ => Err(invalid(
                path,
                "with more than 2 components is not supported",
            )),
        }
    }

    /// Finds the column of a field of the queried type.
    ///
    /// # Errors
    /// 120.
    pub(super) fn resolve_field(&mut self, field: &str) -> Result<Place, ApiError> {
        self.resolve(&KeyPath(vec![field.to_owned()]))
    }

    fn resolve_joined(
        &mut self,
        path: &KeyPath,
        reference: &str,
        field: &str,
    ) -> Result<Place, ApiError> {
        if find(self.table, reference, None).is_none() {
            return Err(unknown(path));
        }
        let column = self.table.column(reference);
        let target = column.and_then(|column| match &column.kind {
            FieldType::Reference(target) => Some((column, target)),
            _ => None,
        });
        let Some((column, target)) = target else {
            let text = format!(
                "field \"{reference}\" in keypath \"{}\" is not a reference",
                path.0.join(".")
            );
            return Err(ApiError::new(Code::RecordQueryInvalid, text));
        };
        let table = self.catalog.table(target).ok_or_else(|| unknown(path))?;
        let join = self.join(reference, column, table);
        find(table, field, Some(join)).ok_or_else(|| unknown(path))
    }

    fn join(&mut self, field: &str, column: &Column, target: &Table) -> usize {
        let next = self.joins.len();
        let number = *self.by_field.entry(field.to_owned()).or_insert(next);
        if number == next {
            self.joins.push((column.name.clone(), target.name.clone()));
        }
        number
    }

    /// Adds the tables to a statement.
    pub(super) fn push_from(&self, sql: &mut Sql) {
        sql.push(" FROM ").name(&self.table.name).push(" AS t");
        for (number, (column, target)) in self.joins.iter().enumerate() {
            sql.push(" LEFT JOIN ")
                .name(target)
                .push(" AS ")
                .alias('j', number);
            sql.push(" ON ")
                .alias('j', number)
                .push("._id=t.")
                .name(column);
        }
    }
}

/// Finds a system column or field.
fn find(table: &Table, field: &str, join: Option<usize>) -> Option<Place> {
    let system = |column: &'static str, class: Class, is_nullable: bool| Place {
        join,
        column: ColumnName::System(column),
        class,
        is_nullable: is_nullable || join.is_some(),
    };
    Some(match field {
        "_id" => system("_id", Class::Text, false),
        "_owner_id" | "_owner" => system("_owner_id", Class::Text, true),
        "_created_by" => system("_created_by", Class::Text, true),
        "_updated_by" => system("_updated_by", Class::Text, true),
        "_database_id" => system("_database_id", Class::Text, false),
        "_created_at" => system("_created_at", Class::Time, false),
        "_updated_at" => system("_updated_at", Class::Time, false),
        "_access" => system("_access", Class::Json, true),
        _ => {
            let column = table.column(field)?;
            Place {
                join,
                column: ColumnName::Field(column.compared().clone()),
                class: class_of(&column.kind),
                is_nullable: true,
            }
        }
    })
}

/// Tells how a field's values compare.
pub(super) fn class_of(kind: &FieldType) -> Class {
    match kind {
        FieldType::String | FieldType::Reference(_) | FieldType::Asset => Class::Text,
        FieldType::CaselessString => Class::Folded,
        FieldType::Number => Class::Number,
        FieldType::Integer | FieldType::Sequence => Class::Whole,
        FieldType::Boolean => Class::Boolean,
        FieldType::DateTime => Class::Time,
        FieldType::Json => Class::Json,
        FieldType::Location => Class::Point,
        FieldType::Geometry => Class::Geometry,
    }
}

fn unknown(path: &KeyPath) -> ApiError {
    invalid(path, "does not exist")
}

fn invalid(path: &KeyPath, what: &str) -> ApiError {
    let text = format!("keypath \"{}\" {what}", path.0.join("."));
    ApiError::new(Code::RecordQueryInvalid, text)
}
