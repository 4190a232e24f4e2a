//! How record types are laid out: the table of each type, and the columns of its fields.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skytrail_schema::id::TypeName;
use skytrail_schema::predicate::column::Types;
use skytrail_schema::types::{FieldType, TypeDefinition};

use super::dialect::Dialect;
use super::names::{Name, NameSet};
use super::sql::Kind;
use super::value::kind_of;

/// The columns that every record table has in addition to those of fields, in the table's order.
///
/// `_row` is the position of the event that created the record, so rows are in the order of
/// creation.
pub(crate) const SYSTEM_COLUMNS: [&str; 11] = [
    "_row",
    "_id",
    "_position",
    "_version",
    "_database_id",
    "_owner_id",
    "_access",
    "_created_at",
    "_created_by",
    "_updated_at",
    "_updated_by",
];

/// Those that are the server's own; v1 has the others, and plugins write them.
const OWN_COLUMNS: [&str; 3] = ["_row", "_position", "_version"];

/// Returns whether only the server writes a column.
pub(crate) fn is_own(column: &str) -> bool {
    OWN_COLUMNS.contains(&column)
}

/// Returns whether every record table of v1 has a column.
pub(crate) fn is_shared(column: &str) -> bool {
    SYSTEM_COLUMNS.contains(&column) && !is_own(column)
}

/// The columns that a table of SQLite actually stores in these places.
///
/// Most records are created and changed by their owner. So these two users are stored only when
/// they differ from the owner (empty for nobody), and `_created_by` and `_updated_by` are computed
/// from them.
const STORED_COLUMNS: [&str; SYSTEM_COLUMNS.len()] = [
    "_row",
    "_id",
    "_position",
    "_version",
    "_database_id",
    "_owner_id",
    "_access",
    "_created_at",
    "_creator",
    "_updated_at",
    "_updater",
];

/// The kinds of the system columns' values, in the same order.
const SYSTEM_KINDS: [Kind; SYSTEM_COLUMNS.len()] = [
    Kind::Int,
    Kind::Text,
    Kind::Int,
    Kind::Int,
    Kind::Text,
    Kind::Text,
    Kind::Json,
    Kind::Time,
    Kind::Text,
    Kind::Time,
    Kind::Text,
];

/// Returns the columns that a table stores in the places of [`SYSTEM_COLUMNS`].
pub(crate) fn stored_columns(dialect: Dialect) -> &'static [&'static str; SYSTEM_COLUMNS.len()] {
    dialect.choose(&STORED_COLUMNS, &SYSTEM_COLUMNS)
}

/// The place of a field in its type's table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Column {
    /// The field.
    pub(crate) field: String,
    /// Its type.
    pub(crate) kind: FieldType,
    /// The column.
    pub(crate) name: Name,
    /// A second column: the media type of an asset, the folded form of a caseless string.
    pub(crate) companion: Option<Name>,
}

impl Column {
    /// Chooses free names for a field's column and its companion.
    fn new(field: &str, kind: &FieldType, names: &mut NameSet) -> Self {
        let name = names.take(field);
        let companion = match kind {
            FieldType::Asset => Some(names.take(&format!("{}~type", name.as_str()))),
            FieldType::CaselessString => Some(names.take(&format!("{}~folded", name.as_str()))),
            _ => None,
        };
        Self {
            field: field.to_owned(),
            kind: kind.clone(),
            name,
            companion,
        }
    }

    /// Returns the column that comparisons, sorting and indexes use.
    pub(crate) fn compared(&self) -> &Name {
        match (&self.kind, &self.companion) {
            (FieldType::CaselessString, Some(folded)) => folded,
            _ => &self.name,
        }
    }

    /// Returns the column, and its companion if it has one.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.name).chain(&self.companion)
    }
}

/// A record type's table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    /// The table's name.
    pub(crate) name: Name,
    /// The columns of fields, in the table's order.
    pub(crate) columns: Vec<Column>,
    /// The SQL of its database.
    pub(crate) dialect: Dialect,
    by_field: HashMap<String, usize>,
    places: Vec<usize>,
}

impl Table {
    fn new(name: Name, columns: Vec<Column>, dialect: Dialect) -> Self {
        let by_field = columns
            .iter()
            .enumerate()
            .map(|(index, column)| (column.field.clone(), index))
            .collect();
        let mut next_place = SYSTEM_COLUMNS.len();
        let mut take_place = |column: &Column| {
            let place = next_place;
            next_place += column.names().count();
            place
        };
        Self {
            name,
            places: columns.iter().map(&mut take_place).collect(),
            columns,
            dialect,
            by_field,
        }
    }

    /// Finds a field's column.
    pub(crate) fn column(&self, field: &str) -> Option<&Column> {
        self.columns.get(*self.by_field.get(field)?)
    }

    /// Finds a field's column and its index in a whole row; a companion has the next index.
    pub(crate) fn place(&self, field: &str) -> Option<(usize, &Column)> {
        let index = *self.by_field.get(field)?;
        Some((*self.places.get(index)?, self.columns.get(index)?))
    }

    /// Returns the name of the column at an index of a whole row, if it belongs to a field.
    pub(crate) fn field_name_at(&self, place: usize) -> Option<&Name> {
        self.field_names()
            .nth(place.checked_sub(SYSTEM_COLUMNS.len())?)
    }

    /// Returns all columns of fields, companions included, in the table's order.
    pub(crate) fn field_names(&self) -> impl Iterator<Item = &Name> {
        self.columns.iter().flat_map(Column::names)
    }

    /// Returns the kinds of a whole row's values, in the same order.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        let of_column = |column: &Column| {
            let companion = column.companion.as_ref().map(|_| Kind::Text);
            std::iter::once(kind_of(&column.kind)).chain(companion)
        };
        let of_fields = self.columns.iter().flat_map(of_column);
        SYSTEM_KINDS.into_iter().chain(of_fields)
    }

    /// Returns the number of columns, system columns included.
    pub(crate) fn width(&self) -> usize {
        SYSTEM_COLUMNS.len() + self.field_names().count()
    }
}

/// A type as the store has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TypeLayout {
    /// The number of the type in `_type`.
    pub(crate) id: i64,
    /// Its definition as of the store's checkpoint.
    pub(crate) definition: Arc<TypeDefinition>,
    /// Its table; `None` while the type has settings only.
    pub(crate) table: Option<Table>,
}

impl TypeLayout {
    /// Returns the table of what the type's records were, if the store keeps that. It has the same
    /// columns and `_until`, the position at which the next version replaced this one.
    pub(crate) fn past(&self) -> Option<Table> {
        let table = self.table.as_ref()?;
        self.definition.intervals_since?;
        Some(Table {
            name: past_name(self.id),
            ..table.clone()
        })
    }

    /// Returns whether a field numbers the records, in a column of its own.
    pub(crate) fn is_sequence(&self, field: &str) -> bool {
        let column = self.table.as_ref().and_then(|table| table.column(field));
        column.is_some_and(|column| column.kind == FieldType::Sequence)
    }
}

/// Names the table of what the records of the type with this number were.
pub(crate) fn past_name(id: i64) -> Name {
    Name::new(&format!("_past_{id}"))
}

/// A column as `_type.columns` stores it.
#[derive(Serialize, Deserialize)]
struct StoredColumn {
    field: String,
    column: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    companion: Option<String>,
}

impl TypeLayout {
    /// Returns the stored form of the columns.
    pub(crate) fn columns_to_json(&self) -> String {
        let columns: Vec<StoredColumn> = self
            .table
            .iter()
            .flat_map(|table| &table.columns)
            .map(|column| StoredColumn {
                field: column.field.clone(),
                column: column.name.as_str().to_owned(),
                companion: column
                    .companion
                    .as_ref()
                    .map(|name| name.as_str().to_owned()),
            })
            .collect();
        serde_json::to_string(&columns).unwrap_or_default()
    }

    /// Reads the stored form.
    pub(crate) fn from_stored(
        id: i64,
        definition: TypeDefinition,
        table: Option<&str>,
        columns: &str,
        dialect: Dialect,
    ) -> Result<Self, serde_json::Error> {
        let stored: Vec<StoredColumn> = serde_json::from_str(columns)?;
        let columns = stored.into_iter().filter_map(|stored| {
            Some(Column {
                kind: definition.fields.get(&stored.field)?.clone(),
                name: Name::new(&stored.column),
                companion: stored.companion.as_deref().map(Name::new),
                field: stored.field,
            })
        });
        Ok(Self {
            id,
            table: table.map(|table| Table::new(Name::new(table), columns.collect(), dialect)),
            definition: Arc::new(definition),
        })
    }
}

impl Types for Catalog {
    fn definition(&self, name: &TypeName) -> Option<&TypeDefinition> {
        self.types.get(name).map(|layout| &*layout.definition)
    }
}

/// All types of the store, as of its checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    types: HashMap<TypeName, Arc<TypeLayout>>,
    tables: NameSet,
    last_id: i64,
    dialect: Dialect,
}

impl Catalog {
    /// Starts without types.
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            types: HashMap::new(),
            tables: NameSet::of_tables(dialect),
            last_id: 0,
            dialect,
        }
    }

    /// Finds a type.
    pub(crate) fn get(&self, name: &TypeName) -> Option<&Arc<TypeLayout>> {
        self.types.get(name)
    }

    /// Finds a type's table.
    pub(crate) fn table(&self, name: &TypeName) -> Option<&Table> {
        self.types.get(name)?.table.as_ref()
    }

    /// Returns all types by name.
    pub(crate) fn sorted(&self) -> BTreeMap<&TypeName, &Arc<TypeLayout>> {
        self.types.iter().collect()
    }

    /// Adds a type that was read from the store.
    pub(crate) fn add(&mut self, layout: TypeLayout) {
        if let Some(table) = &layout.table {
            self.tables.reserve(table.name.as_str());
        }
        self.last_id = self.last_id.max(layout.id);
        self.types
            .insert(layout.definition.name.clone(), Arc::new(layout));
    }

    /// Applies an extended definition; returns the new layout and how many of its columns existed
    /// before.
    pub(crate) fn change(&mut self, definition: TypeDefinition) -> (Arc<TypeLayout>, usize) {
        let before = self.types.get(&definition.name).cloned();
        let old_table = before.as_ref().and_then(|before| before.table.as_ref());
        let num_old = old_table.map_or(0, |table| table.columns.len());
        let table = definition.is_created.then(|| {
            let name = old_table.map(|table| table.name.clone());
            let name = name.unwrap_or_else(|| self.tables.take(definition.name.as_str()));
            let old = old_table.map(|table| table.columns.clone());
            let columns = columns_of(&definition, old.unwrap_or_default(), self.dialect);
            Table::new(name, columns, self.dialect)
        });
        (self.put(definition, table), num_old)
    }

    /// Applies a definition in which a field is renamed or deleted. Returns `None` when the field
    /// has no column.
    pub(crate) fn change_field(
        &mut self,
        definition: TypeDefinition,
        field: &str,
        new_name: Option<&str>,
    ) -> Option<ChangedColumn> {
        let table = self.table(&definition.name)?;
        let (name, mut columns) = (table.name.clone(), table.columns.clone());
        let index = *table.by_field.get(field)?;
        let old = columns.remove(index);
        let new = new_name.map(|new_name| {
            let new = Column::new(new_name, &old.kind, &mut names_of(&columns, self.dialect));
            columns.insert(index, new.clone());
            new
        });
        let layout = self.put(definition, Some(Table::new(name, columns, self.dialect)));
        Some(ChangedColumn { layout, old, new })
    }

    fn put(&mut self, definition: TypeDefinition, table: Option<Table>) -> Arc<TypeLayout> {
        let before = self.types.get(&definition.name);
        let id = before.map_or(self.last_id + 1, |before| before.id);
        let layout = Arc::new(TypeLayout {
            id,
            definition: Arc::new(definition),
            table,
        });
        self.last_id = self.last_id.max(id);
        self.types
            .insert(layout.definition.name.clone(), Arc::clone(&layout));
        layout
    }
}

/// The column of a field that was renamed or deleted.
pub(crate) struct ChangedColumn {
    /// The type as it is now.
    pub(crate) layout: Arc<TypeLayout>,
    /// The column as it was.
    pub(crate) old: Column,
    /// The column as it is now; `None` when it is deleted.
    pub(crate) new: Option<Column>,
}

/// Adds columns for the fields that have none yet.
fn columns_of(
    definition: &TypeDefinition,
    mut columns: Vec<Column>,
    dialect: Dialect,
) -> Vec<Column> {
    let mut names = names_of(&columns, dialect);
    for (field, kind) in &definition.fields {
        if columns.iter().all(|column| column.field != *field) {
            columns.push(Column::new(field, kind, &mut names));
        }
    }
    columns
}

/// Returns the names in use among a table's columns.
fn names_of(columns: &[Column], dialect: Dialect) -> NameSet {
    let mut names = NameSet::new(dialect);
    for name in columns.iter().flat_map(Column::names) {
        names.reserve(name.as_str());
    }
    names
}
